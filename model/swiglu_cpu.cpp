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

/// An activation and its slope, for lanes and for one number.
struct Silu {
  static HWY_INLINE void lanes(FloatTag d, FloatLanes x, FloatLanes& value, FloatLanes& slope) {
    const auto one = hn::Set(d, 1.0f);
    const auto s = sigmoid(d, x);
    value = hn::Mul(x, s);
    slope = hn::Mul(s, hn::Add(one, hn::Mul(x, hn::Sub(one, s))));
  }
  static void one(float x, float& value, float& slope) {
    const float s = sigmoid_one(x);
    value = x * s;
    slope = s * (1.0f + x * (1.0f - s));
  }
};

struct GeluTanh {
  static constexpr float kRoot = 0.7978845608028654f;  // sqrt(2 / pi)
  static constexpr float kCube = 0.044715f;

  static HWY_INLINE void lanes(FloatTag d, FloatLanes x, FloatLanes& value, FloatLanes& slope) {
    const auto one = hn::Set(d, 1.0f), half = hn::Set(d, 0.5f), root = hn::Set(d, kRoot);
    const auto cube = hn::Set(d, kCube), square = hn::Mul(x, x);
    const auto inner = hn::Mul(root, hn::Mul(x, hn::Add(one, hn::Mul(cube, square))));
    const auto t = hn::Tanh(d, inner);
    const auto left = hn::Mul(half, hn::Add(one, t));
    value = hn::Mul(x, left);
    const auto steep = hn::Mul(root, hn::Add(one, hn::Mul(hn::Set(d, 3 * kCube), square)));
    const auto bell = hn::Mul(hn::Mul(half, x), hn::Sub(one, hn::Mul(t, t)));
    slope = hn::Add(left, hn::Mul(bell, steep));
  }
  static void one(float x, float& value, float& slope) {
    const float t = std::tanh(kRoot * (x * (1.0f + kCube * (x * x))));
    const float left = 0.5f * (1.0f + t);
    value = x * left;
    slope = left + 0.5f * x * (1.0f - t * t) * (kRoot * (1.0f + 3 * kCube * (x * x)));
  }
};

template <class T, class Act>
void forward(const SwigluArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  const T* gate = static_cast<const T*>(a.gate) + begin;
  const T* up = static_cast<const T*>(a.up) + begin;
  T* y = static_cast<T*>(a.y) + begin;
  for_lanes(
      d, end - begin,
      [&](int64_t i) {
        auto value = hn::Zero(d), slope = hn::Zero(d);
        Act::lanes(d, load_f32(d, gate + i), value, slope);
        store_f32(d, hn::Mul(value, load_f32(d, up + i)), y + i);
      },
      [&](int64_t i) {
        float value, slope;
        Act::one(load_one(gate + i), value, slope);
        store_one(value * load_one(up + i), y + i);
      });
}

template <class T, class Act>
void backward(const SwigluBackwardArgs& a, int64_t begin, int64_t end) {
  const FloatTag d;
  const T* dy = static_cast<const T*>(a.dy) + begin;
  const T* gate = static_cast<const T*>(a.gate) + begin;
  const T* up = static_cast<const T*>(a.up) + begin;
  T* dgate = static_cast<T*>(a.dgate) + begin;
  T* dup = static_cast<T*>(a.dup) + begin;
  for_lanes(
      d, end - begin,
      [&](int64_t i) {
        auto value = hn::Zero(d), slope = hn::Zero(d);
        Act::lanes(d, load_f32(d, gate + i), value, slope);
        const auto v = load_f32(d, dy + i);
        store_f32(d, hn::Mul(hn::Mul(v, load_f32(d, up + i)), slope), dgate + i);
        store_f32(d, hn::Mul(v, value), dup + i);
      },
      [&](int64_t i) {
        float value, slope;
        Act::one(load_one(gate + i), value, slope);
        const float v = load_one(dy + i);
        store_one(v * load_one(up + i) * slope, dgate + i);
        store_one(v * value, dup + i);
      });
}

/// Calls f(typed null pointer, activation).
template <class F>
void with_activation(FloatKind kind, io::Activation activation, const F& f) {
  with_kind(kind, [&](auto* p) {
    if (activation == io::Activation::kSilu) {
      f(p, Silu());
    } else {
      f(p, GeluTanh());
    }
  });
}

void swiglu(const SwigluArgs& a, int64_t begin, int64_t end) {
  with_activation(a.kind, a.activation, [&](auto* p, auto act) {
    forward<std::remove_pointer_t<decltype(p)>, decltype(act)>(a, begin, end);
  });
}

void swiglu_backward(const SwigluBackwardArgs& a, int64_t begin, int64_t end) {
  with_activation(a.kind, a.activation, [&](auto* p, auto act) {
    backward<std::remove_pointer_t<decltype(p)>, decltype(act)>(a, begin, end);
  });
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
