#include "quant/activations.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "quant/fp8_math.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

/// Scale of each token: its greatest magnitude becomes `top`. Never 0.
Tensor token_scales(const Tensor& x, double top) {
  return (x.abs().amax({-1}, true) / torch::full({1}, top, x.options())).clamp_min(0x1p-126);
}

/// x / scale in E4M3 and back; the cast itself would make NaN of what lies beyond 448.
Tensor through_fp8(const Tensor& x, const Tensor& scale) {
  const auto cut = (x / scale).clamp(-double{kFp8Max}, double{kFp8Max});
  return cut.to(torch::kFloat8_e4m3fn).to(torch::kFloat32) * scale;
}

}  // namespace

torch::Tensor rounded_activations_int8(const Tensor& x) {
  const at::NoGradGuard no_grad;
  const auto values = x.to(torch::kFloat32);
  const auto scales = token_scales(values, 127);
  return ((values / scales).round().clamp(-127, 127) * scales).to(x.scalar_type());
}

torch::Tensor rounded_activations_fp8(const Tensor& x) {
  const at::NoGradGuard no_grad;
  const auto values = x.to(torch::kFloat32);
  return through_fp8(values, token_scales(values, kFp8Max)).to(x.scalar_type());
}

torch::Tensor rounded_activations_fp8(const Tensor& x, const Tensor& scale) {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(scale.defined() && scale.numel() == 1, ShapeError,
              "[quant] the scale of the activations has shape {}, allowed [1]",
              scale.defined() ? c10::str(scale.sizes()) : "none");
  const auto number = scale.item<float>();
  QLORA_CHECK(number > 0 && is_finite_bits(float_bits(number)), ValueError,
              "[quant] the scale of the activations is {}, allowed positive and finite", number);
  return through_fp8(x.to(torch::kFloat32), scale.to(torch::kFloat32)).to(x.scalar_type());
}

}  // namespace qlora::quant
