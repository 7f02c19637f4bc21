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

template <class T>
float exponential_sum(const T* x, int64_t n, float maximum) {
  const FloatTag d;
  const auto top = hn::Set(d, maximum);
  auto lanes = hn::Zero(d);
  float rest = 0;
  for_lanes(
      d, n,
      [&](int64_t i) {
        const auto z = hn::Sub(load_f32(d, x + i), top);
        // Highway's exp of NaN is 0: a logit that is no number has to show in the loss.
        lanes = hn::Add(lanes, hn::IfThenElse(hn::IsNaN(z), z, hn::Exp(d, z)));
      },
      [&](int64_t i) { rest += std::exp(load_one(x + i) - maximum); });
  return hn::GetLane(hn::SumOfLanes(d, lanes)) + rest;
}

/// x := scale·exp(x − shift)
template <class T>
void replace_by_probabilities(T* x, int64_t n, float shift, float scale) {
  const FloatTag d;
  const auto s = hn::Set(d, shift), k = hn::Set(d, scale);
  for_lanes(
      d, n,
      [&](int64_t i) {
        const auto e = hn::Exp(d, hn::Sub(load_f32(d, x + i), s));
        store_f32(d, hn::Mul(e, k), x + i);
      },
      [&](int64_t i) { store_one(std::exp(load_one(x + i) - shift) * scale, x + i); });
}

template <class T>
void rows(const CrossEntropyArgs& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    T* x = static_cast<T*>(a.logits) + t * a.vocabulary;
    const float maximum = row_maximum(x, a.vocabulary);
    const float sum = exponential_sum(x, a.vocabulary, maximum);
    T* hit = x + a.targets[t];
    const float target_logit = load_one(hit);
    const float log_sum = std::log(sum);
    // The maximum is taken off both first: what is left is small and exact.
    a.nll[t] = log_sum + (maximum - target_logit);
    if (!a.want_gradient) continue;
    const float shift = maximum + log_sum;
    replace_by_probabilities(x, a.vocabulary, shift, a.gradient_scale);
    store_one((std::exp(target_logit - shift) - 1.0f) * a.gradient_scale, hit);
  }
}

void cross_entropy(const CrossEntropyArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { rows<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
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
