#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/cuda/paging_stats.h"
#include "trainer/loss_scaler.h"
#include "trainer/step_stats.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

/// A trainable tensor under the name that checkpoints use.
struct Parameter {
  std::string name;     // "model.layers.0.self_attn.q_proj.lora_A"
  torch::Tensor value;  // f32, contiguous, an autograd leaf
};

/// A tensor of optimizer state; shares memory with the optimizer.
struct NamedTensor {
  std::string name;
  torch::Tensor value;
};

/// Turns gradients into updates. There is one implementation for each form of state.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Unscales the gradients, measures their norm, clips them, and makes one update of every
  /// parameter whose gradient is defined, unless loss or gradients are not finite: then the loss
  /// scale falls and nothing is updated.
  ///   max_norm  gradients are scaled down to it; 0: never
  ///   loss      scalar f32 on the parameters' device
  ///   returns   stats with loss, gradient_norm and applied filled
  virtual StepStats update(LossScaler& scaler, double max_norm, const torch::Tensor& loss,
                           StepStats stats);
  /// The update alone.
  virtual void step(double learning_rate) = 0;
  /// All state but the count of updates, "<kind>.<parameter>", in a fixed order.
  virtual std::vector<NamedTensor> state_tensors() const = 0;

  /// What paging has moved so far; nothing where states are not paged.
  virtual std::optional<qlora::cuda::PagingStats> paging() const { return std::nullopt; }

  void zero_grad();
  const std::vector<Parameter>& parameters() const { return parameters_; }

  /// Applied updates: the exponent t of the bias corrections. Skipped steps do not count.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

 protected:
  Optimizer(std::vector<Parameter> parameters, const OptimizerOptions& options);

  std::vector<Parameter> parameters_;
  OptimizerOptions options_;
  int64_t updates_ = 0;
};

/// The optimizer of the parameters' device.
///   throws    ShapeError for a parameter that is not f32 or not contiguous
std::unique_ptr<Optimizer> make_optimizer(std::vector<Parameter> parameters,
                                          const OptimizerOptions& options);

}  // namespace qlora::trainer
