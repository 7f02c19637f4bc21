#include "quant/smoothquant.h"

#include <ATen/core/grad_mode.h>

#include "quant/checks.h"

namespace qlora::quant {

torch::Tensor smoothquant_scales(std::span<const torch::Tensor> weights,
                                 const LinearStatistics& statistics, double alpha) {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(alpha >= 0 && alpha <= 1, ConfigError,
              "[quant] smoothquant alpha is {}, allowed 0 to 1", alpha);
  const auto& inputs = statistics.abs_max;
  QLORA_CHECK(inputs.defined() && inputs.dim() == 1 && inputs.size(0) > 0, ShapeError,
              "[quant] abs_max has shape {}, allowed [K]", shape_text(inputs));
  QLORA_CHECK(!weights.empty(), ShapeError, "[quant] no weight was given, allowed at least one");
  torch::Tensor most;
  for (const torch::Tensor& w : weights) {
    check_weight(w, inputs.size(0));
    const auto columns = w.to(torch::kFloat32).abs().amax({0});
    most = most.defined() ? torch::maximum(most, columns) : columns;
  }
  QLORA_CHECK(
      most.isfinite().all().item<bool>() && inputs.isfinite().all().item<bool>(), ValueError,
      "[quant] the weights or their inputs hold numbers that are not finite; the checkpoint "
      "may be damaged, or activations overflow on the calibration samples");
  // In 64 bits: neither the smallest nor the greatest float leaves the range on the way.
  const auto s = (inputs.to(torch::kFloat64).pow(alpha) / most.to(torch::kFloat64).pow(1 - alpha))
                     .to(torch::kFloat32);
  const auto is_sound =
      s.isfinite().logical_and(s.gt(0)).logical_and(inputs.gt(0)).logical_and(most.gt(0));
  return torch::where(is_sound, s, torch::ones_like(s));
}

}  // namespace qlora::quant
