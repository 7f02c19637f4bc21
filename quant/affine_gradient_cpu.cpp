#include "quant/affine_gradient_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/affine_gradient_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quant/affine_gradient_math.h"
#include "quant/affine_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// One group; returns the sum of gradient · slope by scale.
///   kAnchored    anchored_slope instead of affine_slope
///   value_scale  what codes are multiplied with
template <bool kAnchored>
inline float group_gradient(const float* w, int64_t count, AffineGrid grid, float value_scale,
                            int64_t bits, float* values, float* gradient) {
  const AffineGrid of_values{value_scale, grid.zero};
  float sum = 0;
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX2
  const int64_t lanes = hn::Lanes(kF32);
  const GridLanes lane_grid(grid, bits);
  const auto scale = hn::Set(kF32, value_scale), ratio = hn::Set(kF32, value_scale / grid.scale);
  auto sums = hn::Zero(kF32);
  for (; i + lanes <= count; i += lanes) {
    const auto steps = hn::Div(hn::LoadU(kF32, w + i), lane_grid.scale);
    const auto nearest = hn::Round(steps);
    const auto code = hn::Add(nearest, lane_grid.zero);
    const auto cut = hn::Min(hn::Max(code, hn::Zero(kF32)), lane_grid.top);
    const auto is_inside = hn::Eq(cut, code);
    const auto from_zero = hn::Sub(cut, lane_grid.zero);
    const auto arriving = hn::LoadU(kF32, gradient + i);
    auto slope = from_zero, passed = arriving;
    if constexpr (kAnchored) {
      passed = hn::Mul(arriving, ratio);
    } else {
      slope = hn::IfThenElse(is_inside, hn::Sub(nearest, steps), from_zero);
    }
    sums = hn::Add(sums, hn::Mul(arriving, slope));
    hn::StoreU(hn::IfThenElseZero(is_inside, passed), kF32, gradient + i);
    if (values != nullptr) hn::StoreU(hn::Mul(from_zero, scale), kF32, values + i);
  }
  sum = hn::GetLane(hn::SumOfLanes(kF32, sums));
#endif
  for (; i < count; ++i) {
    const AffineSlope slope =
        kAnchored ? anchored_slope(w[i], grid, value_scale, bits) : affine_slope(w[i], grid, bits);
    sum += gradient[i] * slope.by_scale;
    gradient[i] *= slope.by_weight;
    if (values != nullptr) values[i] = affine_value(affine_code(w[i], grid, bits), of_values);
  }
  return sum;
}

void affine_gradient(const AffineGradientArgs& a) {
  const int64_t groups = a.cols / a.group_size;
  for (int64_t row = 0; row < a.rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t at = row * a.cols + g * a.group_size, group = row * groups + g;
      const AffineGrid grid{a.scales[group], a.zeros[group]};
      float* const values = a.values != nullptr ? a.values + at : nullptr;
      const float sum =
          a.value_scales != nullptr
              ? group_gradient<true>(a.weight + at, a.group_size, grid, a.value_scales[group],
                                     a.bits, values, a.gradient + at)
              : group_gradient<false>(a.weight + at, a.group_size, grid, grid.scale, a.bits, values,
                                      a.gradient + at);
      if (a.scale_gradient != nullptr) a.scale_gradient[group] = sum;
    }
  }
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {

HWY_EXPORT(affine_gradient);

void cpu::affine_gradient(const AffineGradientArgs& args) {
  HWY_DYNAMIC_DISPATCH(affine_gradient)(args);
}

}  // namespace qlora::quant
#endif
