#include "trainer/device_adamw.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "core/error.h"
#include "quant/checks.h"
#include "trainer/adamw32.h"

namespace qlora::trainer {
namespace {

DeviceStates states_of(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::kPagedAdamW8bit:
      return DeviceStates::kPaged8bit;
    case OptimizerKind::kAdamW8bit:
      return DeviceStates::k8bit;
    case OptimizerKind::kAdamW32bit:
      break;
  }
  return DeviceStates::k32bit;
}

std::vector<int64_t> counts_of(const std::vector<Parameter>& parameters) {
  std::vector<int64_t> counts;
  for (const Parameter& parameter : parameters) counts.push_back(parameter.value.numel());
  return counts;
}

torch::Device device_of(const std::vector<Parameter>& parameters) {
  const torch::Device device = parameters.front().value.device();
  for (const Parameter& parameter : parameters) {
    QLORA_CHECK(device.is_cuda() && parameter.value.device() == device, DeviceError,
                "[trainer] {} lies on {}, allowed one CUDA device for all parameters ({} is on {})",
                parameter.name, parameter.value.device().str(), parameters.front().name,
                device.str());
  }
  return device;
}

}  // namespace

DeviceAdamW::DeviceAdamW(std::vector<Parameter> parameters, const OptimizerOptions& options)
    : Optimizer(std::move(parameters), options),
      device_(device_of(parameters_)),
      loss_(at::zeros({}, torch::TensorOptions(device_))) {
  const auto counts = counts_of(parameters_);
  device_update_.reset(
      cuda::make_device_optimizer(counts, states_of(options.kind), device_.index()));
}

void DeviceAdamW::queue(double learning_rate, float unscale, double max_norm, const float* loss) {
  const AdamwStep step = adamw_step(learning_rate, options_.beta1, options_.beta2, options_.epsilon,
                                    options_.weight_decay, updates_ + 1);
  std::vector<torch::Tensor> gradients;  // alive until the work on them is queued
  std::vector<UpdateTensor> tensors;
  for (const Parameter& parameter : parameters_) {
    const torch::Tensor& value = parameter.value;
    UpdateTensor row{.parameter = static_cast<float*>(value.data_ptr()),
                     .gradient = nullptr,
                     .count = value.numel()};
    if (value.grad().defined()) {
      gradients.push_back(checked_gradient(parameter));
      row.gradient = gradients.back().const_data_ptr<float>();
    }
    tensors.push_back(row);
  }
  device_update_->step(tensors, step, unscale, max_norm, loss,
                       quant::stream_of(parameters_.front().value));
}

StepStats DeviceAdamW::update(LossScaler& scaler, double max_norm, const torch::Tensor& loss,
                              StepStats stats) {
  QLORA_CHECK(loss.device() == device_ && loss.scalar_type() == torch::kFloat32, DeviceError,
              "[trainer] the loss is {} on {}, allowed f32 on {}",
              c10::toString(loss.scalar_type()), loss.device().str(), device_.str());
  loss_.copy_(loss);
  queue(stats.learning_rate, static_cast<float>(1.0 / scaler.factor()), max_norm,
        loss_.const_data_ptr<float>());
  const UpdateScalars done = device_update_->result();
  stats.loss = loss.item<double>();
  stats.gradient_norm = done.norm;
  stats.applied = scaler.update(stats);
  if (stats.applied) ++updates_;
  return stats;
}

void DeviceAdamW::step(double learning_rate) {
  queue(learning_rate, 1, 0, nullptr);
  if (device_update_->result().applied != 0) ++updates_;
}

std::optional<qlora::cuda::PagingStats> DeviceAdamW::paging() const {
  if (!device_update_->is_paged()) return std::nullopt;
  return device_update_->paging_stats();
}

std::vector<NamedTensor> DeviceAdamW::state_tensors() const {
  std::vector<NamedTensor> tensors;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const torch::Tensor& value = parameters_[i].value;
    const StateArrays held = device_update_->states(i);
    const auto add = [&](const char* kind, void* data, at::IntArrayRef shape,
                         torch::ScalarType dtype) {
      tensors.push_back({std::string(kind) + "." + parameters_[i].name,
                         at::for_blob(data, shape)
                             .options(torch::TensorOptions(device_).dtype(dtype))
                             .target_device(device_)
                             .make_tensor()});
    };
    if (!held.is_8bit) {
      add("mean", held.mean, value.sizes(), torch::kFloat32);
      add("square", held.square, value.sizes(), torch::kFloat32);
      continue;
    }
    const int64_t blocks = (value.numel() + kAdamwBlock - 1) / kAdamwBlock;
    add("mean", held.mean, {value.numel()}, torch::kUInt8);
    add("square", held.square, {value.numel()}, torch::kUInt8);
    add("mean_absmax", held.mean_absmax, {blocks}, torch::kFloat32);
    add("square_absmax", held.square_absmax, {blocks}, torch::kFloat32);
  }
  return tensors;
}

}  // namespace qlora::trainer
