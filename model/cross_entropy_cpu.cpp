#include "model/cross_entropy_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "model/cross_entropy_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::model::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

template <class T>
float row_maximum(const T* x, int64_t n) {
  const FloatTag d;
  auto lanes = hn::Set(d, -std::numeric_limits<float>::infinity());
  float rest = -std::numeric_limits<float>::infinity();
  for_lanes(
      d, n, [&](int64_t i) { lanes = hn::Max(lanes, load_f32(d, x + i)); },
      [&](int64_t i) { rest = std::max(rest, load_one(x + i)); });
  return std::max(hn::GetLane(hn::MaxOfLanes(d, lanes)), rest);
}

/// A logit as the loss sees it. Nothing capped is ever stored: a half type would round it twice.
template <bool kCapped>
struct Logit {
  FloatTag d;
  float cap;
  FloatLanes cap_lanes;

  explicit Logit(float cap_of) : cap(cap_of), cap_lanes(hn::Set(d, kCapped ? cap_of : 1)) {}

  HWY_INLINE FloatLanes lanes(FloatLanes x) const {
    if constexpr (kCapped) return hn::Mul(cap_lanes, hn::Tanh(d, hn::Div(x, cap_lanes)));
    return x;
  }
  HWY_INLINE float one(float x) const {
    if constexpr (kCapped) return cap * std::tanh(x / cap);
    return x;
  }
  /// gradient · d logit / d x
  HWY_INLINE FloatLanes through(FloatLanes gradient, FloatLanes z) const {
    if constexpr (!kCapped) return gradient;
    const auto t = hn::Div(z, cap_lanes);
    return hn::Mul(gradient, hn::Sub(hn::Set(d, 1.0f), hn::Mul(t, t)));
  }
  HWY_INLINE float through_one(float gradient, float z) const {
    if constexpr (!kCapped) return gradient;
    return gradient * (1.0f - (z / cap) * (z / cap));
  }
};

template <class T, class L>
float exponential_sum(const T* x, int64_t n, float maximum, const L& logit) {
  const FloatTag d;
  const auto top = hn::Set(d, maximum);
  auto lanes = hn::Zero(d);
  float rest = 0;
  for_lanes(
      d, n,
      [&](int64_t i) {
        // Highway's exp of NaN is 0: a logit that is no number has to show in the loss.
        const auto z = hn::Sub(logit.lanes(load_f32(d, x + i)), top);
        lanes = hn::Add(lanes, hn::IfThenElse(hn::IsNaN(z), z, hn::Exp(d, z)));
      },
      [&](int64_t i) { rest += std::exp(logit.one(load_one(x + i)) - maximum); });
  return hn::GetLane(hn::SumOfLanes(d, lanes)) + rest;
}

/// x := scale·dz·exp(z − shift)
template <class T, class L>
void replace_by_probabilities(T* x, int64_t n, float shift, float scale, const L& logit) {
  const FloatTag d;
  const auto s = hn::Set(d, shift), k = hn::Set(d, scale);
  for_lanes(
      d, n,
      [&](int64_t i) {
        const auto z = logit.lanes(load_f32(d, x + i));
        const auto e = hn::Exp(d, hn::Sub(z, s));
        store_f32(d, logit.through(hn::Mul(e, k), z), x + i);
      },
      [&](int64_t i) {
        const float z = logit.one(load_one(x + i));
        store_one(logit.through_one(std::exp(z - shift) * scale, z), x + i);
      });
}

template <class T, class L>
void rows(const CrossEntropyArgs& a, int64_t begin, int64_t end, const L& logit) {
  for (int64_t t = begin; t < end; ++t) {
    T* x = static_cast<T*>(a.logits) + t * a.vocabulary;
    const float maximum = logit.one(row_maximum(x, a.vocabulary));
    const float sum = exponential_sum(x, a.vocabulary, maximum, logit);
    T* hit = x + a.targets[t];
    const float target_logit = logit.one(load_one(hit));
    const float log_sum = std::log(sum);
    // The maximum is taken off both first: what is left is small and exact.
    a.nll[t] = log_sum + (maximum - target_logit);
    if (!a.want_gradient) continue;
    const float shift = maximum + log_sum;
    replace_by_probabilities(x, a.vocabulary, shift, a.gradient_scale, logit);
    const float gradient = (std::exp(target_logit - shift) - 1.0f) * a.gradient_scale;
    store_one(logit.through_one(gradient, target_logit), hit);
  }
}

void cross_entropy(const CrossEntropyArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) {
    using T = std::remove_pointer_t<decltype(p)>;
    if (a.softcap > 0) {
      rows<T>(a, begin, end, Logit<true>(a.softcap));
    } else {
      rows<T>(a, begin, end, Logit<false>(0));
    }
  });
}

}  // namespace qlora::model::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::model::cpu {
HWY_EXPORT(cross_entropy);

void cross_entropy(const CrossEntropyArgs& a) {
  parallel_for(a.tokens, 1, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(cross_entropy)(a, begin, end);
  });
}
}  // namespace qlora::model::cpu
#endif
