#include "model/rms_norm_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/rms_norm_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include <cmath>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::model::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

template <class T>
void norm_rows(const RmsNormArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.width;
    T* y = static_cast<T*>(a.y) + t * a.width;
    auto lanes = hn::Zero(d);
    float rest = 0;
    for_lanes(
        d, a.width,
        [&](int64_t i) {
          const auto v = hn::LoadU(d, x + i);
          lanes = hn::Add(lanes, hn::Mul(v, v));
        },
        [&](int64_t i) { rest += x[i] * x[i]; });
    const float sum = hn::GetLane(hn::SumOfLanes(d, lanes)) + rest;
    const float r = 1.0f / std::sqrt(sum / static_cast<float>(a.width) + a.epsilon);
    a.inverse_rms[t] = r;
    const auto rv = hn::Set(d, r);
    for_lanes(
        d, a.width,
        [&](int64_t i) {
          const auto normed = hn::Mul(hn::LoadU(d, x + i), rv);
          store_f32(d, hn::Mul(hn::LoadU(d, a.weight + i), normed), y + i);
        },
        [&](int64_t i) { store_one(a.weight[i] * (x[i] * r), y + i); });
  }
}

template <class T>
void backward_rows(const RmsNormBackwardArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  for (int64_t t = begin; t < end; ++t) {
    const float* x = a.x + t * a.width;
    const T* dy = static_cast<const T*>(a.dy) + t * a.width;
    float* dx = a.dx + t * a.width;
    auto lanes = hn::Zero(d);
    float rest = 0;
    for_lanes(
        d, a.width,
        [&](int64_t i) {
          const auto wdy = hn::Mul(hn::LoadU(d, a.weight + i), load_f32(d, dy + i));
          lanes = hn::Add(lanes, hn::Mul(wdy, hn::LoadU(d, x + i)));
        },
        [&](int64_t i) { rest += a.weight[i] * load_one(dy + i) * x[i]; });
    const float r = a.inverse_rms[t];
    const float dot = hn::GetLane(hn::SumOfLanes(d, lanes)) + rest;
    const float k = r * r * dot / static_cast<float>(a.width);
    const auto rv = hn::Set(d, r), kv = hn::Set(d, k);
    for_lanes(
        d, a.width,
        [&](int64_t i) {
          const auto wdy = hn::Mul(hn::LoadU(d, a.weight + i), load_f32(d, dy + i));
          const auto pull = hn::Mul(hn::LoadU(d, x + i), kv);
          hn::StoreU(hn::Mul(rv, hn::Sub(wdy, pull)), d, dx + i);
        },
        [&](int64_t i) { dx[i] = r * (a.weight[i] * load_one(dy + i) - x[i] * k); });
  }
}

void rms_norm(const RmsNormArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { norm_rows<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

void rms_norm_backward(const RmsNormBackwardArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind,
            [&](auto* p) { backward_rows<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

}  // namespace qlora::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::model::cpu {
HWY_EXPORT(rms_norm);
HWY_EXPORT(rms_norm_backward);

void rms_norm(const RmsNormArgs& a) {
  parallel_for(a.tokens, 16, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(rms_norm)(a, begin, end);
  });
}

void rms_norm_backward(const RmsNormBackwardArgs& a) {
  parallel_for(a.tokens, 16, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(rms_norm_backward)(a, begin, end);
  });
}
}  // namespace qlora::model::cpu
#endif
