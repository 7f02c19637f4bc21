#include "trainer/optimizer.h"

#include <utility>

#include "core/error.h"
#include "trainer/adamw32.h"
#include "trainer/device_adamw.h"
#include "trainer/gradient_norm.h"
#include "trainer/paged_adamw8bit.h"

namespace qlora::trainer {

Optimizer::Optimizer(std::vector<Parameter> parameters, const OptimizerOptions& options)
    : parameters_(std::move(parameters)), options_(options) {
  for (const Parameter& p : parameters_) {
    QLORA_CHECK(p.value.scalar_type() == torch::kFloat32 && p.value.is_contiguous(), ShapeError,
                "[trainer] parameter {} is {}, {}; allowed: contiguous f32 masters", p.name,
                c10::toString(p.value.scalar_type()),
                p.value.is_contiguous() ? "contiguous" : "not contiguous");
  }
}

StepStats Optimizer::update(LossScaler& scaler, double max_norm, const torch::Tensor& loss,
                            StepStats stats) {
  std::vector<torch::Tensor> values;
  for (const Parameter& parameter : parameters_) values.push_back(parameter.value);
  scaler.unscale(values);
  stats = clip_gradient_norm(values, max_norm, loss, stats);
  stats.applied = scaler.update(stats);
  if (stats.applied) step(stats.learning_rate);
  return stats;
}

void Optimizer::zero_grad() {
  // Undefined, not zero: the next backward hands its own buffer over instead of adding to ours.
  for (const Parameter& parameter : parameters_) parameter.value.mutable_grad().reset();
}

std::unique_ptr<Optimizer> make_optimizer(std::vector<Parameter> parameters,
                                          const OptimizerOptions& options) {
  if (!parameters.empty() && parameters.front().value.is_cuda()) {
    return std::make_unique<DeviceAdamW>(std::move(parameters), options);
  }
  if (options.kind == OptimizerKind::kAdamW32bit) {
    return std::make_unique<AdamW32>(std::move(parameters), options);
  }
  return std::make_unique<PagedAdamW8bit>(std::move(parameters), options);
}

}  // namespace qlora::trainer
