#include "quant/affine_composed.h"

#include "quant/affine_math.h"

namespace qlora::quant::composed {
namespace {

/// A number as a tensor on the device: libtorch divides by a CPU number through its reciprocal.
torch::Tensor number_like(const torch::Tensor& t, double value) {
  return torch::full({1}, value, t.options().dtype(torch::kFloat32));
}

torch::Tensor rounded_scale(const torch::Tensor& scale, ScaleType type) {
  if (type == ScaleType::kF16) {
    const auto rounded = scale.to(torch::kFloat16).to(torch::kFloat32);
    return torch::where(rounded.eq(0), number_like(scale, 0x1p-24), rounded);
  }
  const auto rounded =
      type == ScaleType::kBF16 ? scale.to(torch::kBFloat16).to(torch::kFloat32) : scale;
  return torch::where(rounded.lt(0x1p-126), number_like(scale, 0x1p-126), rounded);
}

}  // namespace

Grids affine_grids(const torch::Tensor& weight, int64_t group_size, const AffineOptions& o) {
  const auto groups = weight.reshape({weight.size(0), -1, group_size});
  const auto low = groups.amin({-1}).clamp_max(0);
  const auto high = groups.amax({-1}).clamp_min(0);
  const int32_t top = affine_max_code(o.bits);
  if (o.rule != GridRule::kAsymmetric) {
    const int32_t half = top / 2;
    const double steps = o.rule == GridRule::kSymmetric ? half : top * 0.5;
    const auto most = torch::maximum(low.neg(), high);
    const auto scales = rounded_scale(most / number_like(most, steps), o.scale_type);
    return {scales, torch::full_like(scales, half + 1, scales.options().dtype(torch::kUInt8))};
  }
  const auto scales = rounded_scale((high - low) / number_like(high, top), o.scale_type);
  const auto zeros = torch::round(low.neg() / scales).clamp(0, top);
  const auto least = static_cast<double>(o.least_zero);
  const auto wide = rounded_scale(high / number_like(high, static_cast<double>(top - o.least_zero)),
                                  o.scale_type);
  return {torch::where(zeros.lt(least), wide, scales), zeros.clamp_min(least).to(torch::kUInt8)};
}

torch::Tensor affine_codes(const torch::Tensor& w, const torch::Tensor& scales,
                           const torch::Tensor& zeros, int64_t bits) {
  const auto codes = torch::round(w / scales) + zeros.to(torch::kFloat32);
  return codes.nan_to_num(0.0, affine_max_code(bits), 0.0)
      .clamp(0, affine_max_code(bits))
      .to(torch::kUInt8);
}

torch::Tensor affine_values(const torch::Tensor& codes, const torch::Tensor& scales,
                            const torch::Tensor& zeros) {
  return (codes.to(torch::kFloat32) - zeros.to(torch::kFloat32)) * scales;
}

torch::Tensor spread(const torch::Tensor& grids, int64_t cols, const torch::Tensor& group_of) {
  if (group_of.defined()) return grids.index_select(1, group_of);
  return grids.repeat_interleave(cols / grids.size(1), 1);
}

}  // namespace qlora::quant::composed
