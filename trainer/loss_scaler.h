#pragma once

#include <torch/types.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "trainer/step_stats.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

/// Keeps gradients that pass through FP16 inside its range: the loss is multiplied by a factor
/// before the backward, the gradients are divided by it after.
///   Dynamic   the factor falls where a gradient overflows, and doubles after a long good run
///   Source    Micikevicius et al., Mixed Precision Training, arXiv:1710.03740, §3.2; numbers of
///             torch.amp.GradScaler, the ceiling of 2^24 as in apex
class LossScaler {
 public:
  static constexpr double kGrowthFactor = 2.0;
  static constexpr double kHighestScale = 16777216.0;

  /// compute_dtype decides what LossScalingKind::kAuto means.
  LossScaler(const LossScalingOptions& options, torch::ScalarType compute_dtype);

  torch::Tensor scale(const torch::Tensor& loss) const;
  /// Divides the gradients, where there are any. Powers of two divide exactly.
  void unscale(const std::vector<torch::Tensor>& parameters) const;
  /// Learns from the step; true where loss and gradients are finite and the step may be applied.
  bool update(const StepStats& stats);

  double factor() const { return state_.factor; }

  struct State {
    double factor = 1.0;
    int64_t good_steps = 0;  // in a row, since the factor last changed
  };
  const State& state() const { return state_; }
  void restore(const State& state);  // keeps the factor of static and switched-off scaling

 private:
  LossScalingOptions options_;
  State state_;
};

void to_json(nlohmann::json& json, const LossScaler::State& state);
void from_json(const nlohmann::json& json, LossScaler::State& state);

}  // namespace qlora::trainer
