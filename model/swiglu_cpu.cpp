#include "model/swiglu_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/swiglu_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cmath>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::model::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

// The clamp keeps exp finite; beyond it the sigmoid is 0 or 1 in FP32 anyway.
HWY_INLINE FloatLanes sigmoid(FloatTag d, FloatLanes x) {
  const auto one = hn::Set(d, 1.0f);
  const auto bounded = hn::Max(x, hn::Set(d, -87.0f));
  return hn::Div(one, hn::Add(one, hn::Exp(d, hn::Neg(bounded))));
}

inline float sigmoid_one(float x) {
  return 1.0f / (1.0f + std::exp(-(x < -87.0f ? -87.0f : x)));
}

template <class T>
void forward(const SwigluArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  const T* gate = static_cast<const T*>(a.gate) + begin;
  const T* up = static_cast<const T*>(a.up) + begin;
  T* y = static_cast<T*>(a.y) + begin;
  for_lanes(
      d, end - begin,
      [&](int64_t i) {
        const auto g = load_f32(d, gate + i);
        const auto silu = hn::Mul(g, sigmoid(d, g));
        store_f32(d, hn::Mul(silu, load_f32(d, up + i)), y + i);
      },
      [&](int64_t i) {
        const float g = load_one(gate + i);
        store_one(g * sigmoid_one(g) * load_one(up + i), y + i);
      });
}

template <class T>
void backward(const SwigluBackwardArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  const T* dy = static_cast<const T*>(a.dy) + begin;
  const T* gate = static_cast<const T*>(a.gate) + begin;
  const T* up = static_cast<const T*>(a.up) + begin;
  T* dgate = static_cast<T*>(a.dgate) + begin;
  T* dup = static_cast<T*>(a.dup) + begin;
  const auto one = hn::Set(d, 1.0f);
  for_lanes(
      d, end - begin,
      [&](int64_t i) {
        const auto g = load_f32(d, gate + i);
        const auto s = sigmoid(d, g);
        const auto v = load_f32(d, dy + i);
        const auto slope = hn::Mul(s, hn::Add(one, hn::Mul(g, hn::Sub(one, s))));
        store_f32(d, hn::Mul(hn::Mul(v, load_f32(d, up + i)), slope), dgate + i);
        store_f32(d, hn::Mul(v, hn::Mul(g, s)), dup + i);
      },
      [&](int64_t i) {
        const float g = load_one(gate + i), s = sigmoid_one(g), v = load_one(dy + i);
        store_one(v * load_one(up + i) * (s * (1.0f + g * (1.0f - s))), dgate + i);
        store_one(v * (g * s), dup + i);
      });
}

void swiglu(const SwigluArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { forward<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

void swiglu_backward(const SwigluBackwardArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { backward<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

}  // namespace qlora::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::model::cpu {
HWY_EXPORT(swiglu);
HWY_EXPORT(swiglu_backward);

void swiglu(const SwigluArgs& a) {
  parallel_for(a.count, 1 << 14, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(swiglu)(a, begin, end);
  });
}

void swiglu_backward(const SwigluBackwardArgs& a) {
  parallel_for(a.count, 1 << 14, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(swiglu_backward)(a, begin, end);
  });
}
}  // namespace qlora::model::cpu
#endif
