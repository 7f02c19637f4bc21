#include "quant/input_quantizer.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "quant/fp8_math.h"

namespace qlora::quant {

namespace {

/// Outliers do not count in a token's scale, and their columns are not rounded.
torch::Tensor round_with_outliers(const torch::Tensor& x, float threshold) {
  const auto magnitude = x.abs();
  const auto outliers = threshold > 0 ? magnitude >= threshold : torch::zeros_like(x, torch::kBool);
  const auto columns = outliers.any(0, /*keepdim=*/true);  // [1, K]
  const auto most = magnitude.masked_fill(outliers, 0).amax(1, /*keepdim=*/true).clamp_min(1e-30);
  const auto rounded = x.mul(127.0 / most).round().mul(most / 127.0);
  return torch::where(columns, x, rounded);
}

}  // namespace

torch::Tensor round_inputs(const torch::Tensor& x, const InputQuantizer& quantizer) {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(x.dim() == 2, ShapeError, "[quant] inputs have shape {}, allowed [T, K]",
              c10::str(x.sizes()));
  const auto wide = x.to(torch::kFloat32);
  torch::Tensor scale;  // [T, 1], or one
  switch (quantizer.rounding) {
    case InputRounding::kInt8PerToken:
      scale = wide.abs().amax(1, /*keepdim=*/true).div(127.5).clamp_min(1e-30);
      return wide.div(scale).round().clamp(-128, 127).mul(scale).to(x.scalar_type());
    case InputRounding::kInt8WithOutliers:
      return round_with_outliers(wide, quantizer.threshold).to(x.scalar_type());
    case InputRounding::kFp8PerToken:
      scale = wide.abs().amax(1, /*keepdim=*/true).div(kFp8Max).clamp_min(1e-30);
      break;
    case InputRounding::kFp8Static:
      scale = torch::full({1, 1}, quantizer.scale, wide.options());
      break;
    case InputRounding::kInt8Static:
      return wide.div(quantizer.scale)
          .round()
          .clamp(-128, 127)
          .mul(quantizer.scale)
          .to(x.scalar_type());
  }
  const auto codes = wide.div(scale).clamp(-kFp8Max, kFp8Max).to(torch::kFloat8_e4m3fn);
  return codes.to(torch::kFloat32).mul(scale).to(x.scalar_type());
}

float input_reach(InputRounding rounding) {
  return rounding == InputRounding::kFp8Static ? kFp8Max : 127.5F;
}

void mask_input_gradient(const torch::Tensor& x, const InputQuantizer& quantizer,
                         torch::Tensor& gradient) {
  const bool cuts = quantizer.rounding == InputRounding::kFp8Static ||
                    quantizer.rounding == InputRounding::kInt8Static;
  if (!cuts) return;
  const at::NoGradGuard no_grad;
  const float reach = input_reach(quantizer.rounding) * quantizer.scale;
  gradient.masked_fill_(x.abs().gt(reach), 0);
}

}  // namespace qlora::quant
