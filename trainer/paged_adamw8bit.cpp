#include "trainer/paged_adamw8bit.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <utility>

#include "trainer/adamw32.h"
#include "trainer/adamw8_backend.h"

namespace qlora::trainer {
namespace {

int64_t blocks_of(const torch::Tensor& tensor) {
  return (tensor.numel() + kAdamwBlock - 1) / kAdamwBlock;
}

}  // namespace

PagedAdamW8bit::PagedAdamW8bit(std::vector<Parameter> parameters, const OptimizerOptions& options)
    : Optimizer(std::move(parameters), options) {
  check_update_device(parameters_);
  int64_t elements = 0, blocks = 0;
  for (const Parameter& parameter : parameters_) {
    if (parameter.value.numel() < kAdamw8MinElements) continue;
    elements += parameter.value.numel();
    blocks += blocks_of(parameter.value);
  }
  codes_ = at::zeros({2 * elements}, torch::kUInt8);  // with an absmax of 0 every code means 0
  absmax_ = at::zeros({2 * blocks}, torch::kFloat32);
  int64_t code = 0, block = 0;
  const auto take = [](const torch::Tensor& arena, int64_t& next, int64_t count) {
    next += count;
    return arena.narrow(0, next - count, count);
  };
  for (const Parameter& parameter : parameters_) {
    const torch::Tensor& value = parameter.value;
    if (value.numel() < kAdamw8MinElements) {
      states_.push_back({.is_8bit = false,
                         .mean = at::zeros_like(value.detach()),
                         .square = at::zeros_like(value.detach()),
                         .mean_absmax = {},
                         .square_absmax = {}});
      continue;
    }
    State state{.is_8bit = true, .mean = {}, .square = {}, .mean_absmax = {}, .square_absmax = {}};
    state.mean = take(codes_, code, value.numel());
    state.square = take(codes_, code, value.numel());
    state.mean_absmax = take(absmax_, block, blocks_of(value));
    state.square_absmax = take(absmax_, block, blocks_of(value));
    states_.push_back(std::move(state));
  }
}

void PagedAdamW8bit::step(double learning_rate) {
  const AdamwStep step = adamw_step(learning_rate, options_.beta1, options_.beta2, options_.epsilon,
                                    options_.weight_decay, ++updates_);
  std::vector<torch::Tensor> gradients;  // keeps them alive
  std::vector<Adamw8Tensor> tensors8;
  std::vector<Adamw32Tensor> tensors32;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor& value = parameters_[i].value;
    if (!value.grad().defined()) continue;
    gradients.push_back(checked_gradient(parameters_[i]));
    const State& state = states_[i];
    if (!state.is_8bit) {
      tensors32.push_back(adamw32_tensor(value, gradients.back(), state.mean, state.square));
      continue;
    }
    tensors8.push_back({.parameter = static_cast<float*>(value.data_ptr()),
                        .gradient = gradients.back().const_data_ptr<float>(),
                        .mean_codes = state.mean.data_ptr<uint8_t>(),
                        .square_codes = state.square.data_ptr<uint8_t>(),
                        .mean_absmax = state.mean_absmax.data_ptr<float>(),
                        .square_absmax = state.square_absmax.data_ptr<float>(),
                        .count = value.numel()});
  }
  cpu::adamw8({.tensors = tensors8, .step = step});
  cpu::adamw32({.tensors = tensors32, .step = step});
}

std::vector<NamedTensor> PagedAdamW8bit::state_tensors() const {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::string& name = parameters_[i].name;
    const State& state = states_[i];
    tensors.push_back({"mean." + name, state.mean});
    tensors.push_back({"square." + name, state.square});
    if (!state.is_8bit) continue;
    tensors.push_back({"mean_absmax." + name, state.mean_absmax});
    tensors.push_back({"square_absmax." + name, state.square_absmax});
  }
  return tensors;
}

int64_t PagedAdamW8bit::state_bytes() const {
  int64_t bytes = 0;
  for (const NamedTensor& tensor : state_tensors()) {
    bytes += tensor.value.numel() * tensor.value.element_size();
  }
  return bytes;
}

}  // namespace qlora::trainer
