#pragma once

#include <vector>

#include "trainer/adamw32_backend.h"
#include "trainer/optimizer.h"

namespace qlora::trainer {

/// AdamW with 32-bit states: 8 bytes a parameter beside its master.
class AdamW32 final : public Optimizer {
 public:
  AdamW32(std::vector<Parameter> parameters, const OptimizerOptions& options);
  void step(double learning_rate) override;
  std::vector<NamedTensor> state_tensors() const override;

 private:
  std::vector<torch::Tensor> means_;    // as the parameters, f32
  std::vector<torch::Tensor> squares_;  //
};

/// Row of the back end's table for a parameter with a gradient; `gradient` stays alive outside.
Adamw32Tensor adamw32_tensor(const torch::Tensor& parameter, const torch::Tensor& gradient,
                             const torch::Tensor& mean, const torch::Tensor& square);

/// The parameter's gradient as the back ends want it: contiguous f32.
///   throws    ShapeError where it is something else
torch::Tensor checked_gradient(const Parameter& parameter);

/// throws    DeviceError unless the parameters lie where there is an update: on the CPU
void check_update_device(const std::vector<Parameter>& parameters);

}  // namespace qlora::trainer
