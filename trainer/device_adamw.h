#pragma once

#include <memory>
#include <vector>

#include "trainer/device_update_backend.h"
#include "trainer/optimizer.h"

namespace qlora::trainer {

/// AdamW on a CUDA device, of all kinds: norm, unscaling, clipping, finite check and update are a
/// few launches, whatever the number of tensors (trainer/device_update_backend.h).
///   States    those of paged_adamw_8bit lie in managed memory, prefetched and evicted chunk by
///             chunk where the device has concurrent access to it
///   Numbers   the CPU's formulas; the norm is the CPU's bit for bit, gradients are unscaled and
///             clipped in one rounding each on their way into the update
class DeviceAdamW final : public Optimizer {
 public:
  /// throws    DeviceError where the parameters are not on one CUDA device
  DeviceAdamW(std::vector<Parameter> parameters, const OptimizerOptions& options);

  StepStats update(LossScaler& scaler, double max_norm, const torch::Tensor& loss,
                   StepStats stats) override;
  void step(double learning_rate) override;
  std::vector<NamedTensor> state_tensors() const override;
  std::optional<qlora::cuda::PagingStats> paging() const override;

 private:
  /// Queues one update; gradients that are undefined leave their tensors alone.
  void queue(double learning_rate, float unscale, double max_norm, const float* loss);

  torch::Device device_;
  torch::Tensor loss_;  // the step's, always at the same address
  std::unique_ptr<DeviceOptimizer> device_update_;
};

}  // namespace qlora::trainer
