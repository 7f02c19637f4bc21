#include "trainer/adamw32.h"

#include <ATen/ops/zeros_like.h>

#include <utility>

#include "core/error.h"

namespace qlora::trainer {

AdamW32::AdamW32(std::vector<Parameter> parameters, const OptimizerOptions& options)
    : Optimizer(std::move(parameters), options) {
  check_update_device(parameters_);
  for (const Parameter& parameter : parameters_) {
    means_.push_back(at::zeros_like(parameter.value.detach()));
    squares_.push_back(at::zeros_like(parameter.value.detach()));
  }
}

void AdamW32::step(double learning_rate) {
  const AdamwStep step = adamw_step(learning_rate, options_.beta1, options_.beta2, options_.epsilon,
                                    options_.weight_decay, ++updates_);
  std::vector<torch::Tensor> gradients;  // keeps them alive
  std::vector<Adamw32Tensor> tensors;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!parameters_[i].value.grad().defined()) continue;
    gradients.push_back(checked_gradient(parameters_[i]));
    tensors.push_back(
        adamw32_tensor(parameters_[i].value, gradients.back(), means_[i], squares_[i]));
  }
  cpu::adamw32({.tensors = tensors, .step = step});
}

std::vector<NamedTensor> AdamW32::state_tensors() const {
  std::vector<NamedTensor> state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    state.push_back({"mean." + parameters_[i].name, means_[i]});
    state.push_back({"square." + parameters_[i].name, squares_[i]});
  }
  return state;
}

Adamw32Tensor adamw32_tensor(const torch::Tensor& parameter, const torch::Tensor& gradient,
                             const torch::Tensor& mean, const torch::Tensor& square) {
  return {.parameter = static_cast<float*>(parameter.data_ptr()),
          .gradient = gradient.const_data_ptr<float>(),
          .mean = mean.data_ptr<float>(),
          .square = square.data_ptr<float>(),
          .count = parameter.numel()};
}

torch::Tensor checked_gradient(const Parameter& parameter) {
  const torch::Tensor& gradient = parameter.value.grad();
  QLORA_CHECK(
      gradient.scalar_type() == torch::kFloat32 && gradient.numel() == parameter.value.numel(),
      ShapeError, "[trainer] the gradient of {} is {} with {} elements, allowed: f32, {}",
      parameter.name, c10::toString(gradient.scalar_type()), gradient.numel(),
      parameter.value.numel());
  return gradient.contiguous();
}

void check_update_device(const std::vector<Parameter>& parameters) {
  for (const Parameter& parameter : parameters) {
    QLORA_CHECK(parameter.value.is_cpu(), DeviceError,
                "[trainer] {} lies on {}, where there is no optimizer; set device to cpu",
                parameter.name, parameter.value.device().str());
  }
}

}  // namespace qlora::trainer
