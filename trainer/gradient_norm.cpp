#include "trainer/gradient_norm.h"

#include <cmath>
#include <span>

#include "core/error.h"
#include "trainer/gradient_norm_backend.h"

namespace qlora::trainer {
namespace {

double cpu_norm(const std::vector<torch::Tensor>& gradients) {
  std::vector<GradientRange> ranges;
  for (const torch::Tensor& gradient : gradients) {
    ranges.push_back({gradient.const_data_ptr<float>(), gradient.numel()});
  }
  const std::span<const GradientRange> all(ranges);
  const auto blocks = first_blocks(all, kNormBlock);
  std::vector<double> scratch(norm_scratch_size(blocks.back()));
  UpdateScalars scalars{.step = {}, .unscale = 1, .max_norm = 0, .norm = 0, .clip = 1};
  cpu::gradient_norm({.gradients = host_table(all, blocks),
                      .loss = nullptr,
                      .scratch = scratch.data(),
                      .scalars = &scalars});
  return scalars.norm;
}

}  // namespace

StepStats clip_gradient_norm(const std::vector<torch::Tensor>& parameters, double max_norm,
                             const torch::Tensor& loss, StepStats stats) {
  std::vector<torch::Tensor> gradients;
  for (const torch::Tensor& parameter : parameters) {
    if (!parameter.grad().defined()) continue;
    QLORA_CHECK(parameter.is_cpu(), DeviceError,
                "[trainer] a gradient lies on {}, allowed the CPU; DeviceAdamW clips on a device",
                parameter.device().str());
    gradients.push_back(parameter.grad().contiguous());
  }
  stats.loss = loss.item<double>();
  stats.gradient_norm = cpu_norm(gradients);
  if (max_norm > 0 && std::isfinite(stats.gradient_norm) && stats.gradient_norm > max_norm) {
    const double factor = max_norm / (stats.gradient_norm + kNormEpsilon);
    for (const torch::Tensor& parameter : parameters) {
      if (parameter.grad().defined()) parameter.grad().mul_(factor);
    }
  }
  return stats;
}

}  // namespace qlora::trainer
