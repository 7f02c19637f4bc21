#include "trainer/loss_scaler.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace qlora::trainer {

LossScaler::LossScaler(const LossScalingOptions& options, torch::ScalarType compute_dtype)
    : options_(options) {
  if (options_.kind == LossScalingKind::kAuto) {
    options_.kind =
        compute_dtype == torch::kFloat16 ? LossScalingKind::kDynamic : LossScalingKind::kOff;
  }
  if (options_.kind != LossScalingKind::kOff) state_.factor = options_.initial_scale;
}

torch::Tensor LossScaler::scale(const torch::Tensor& loss) const {
  return state_.factor == 1.0 ? loss : loss * state_.factor;
}

void LossScaler::unscale(const std::vector<torch::Tensor>& parameters) const {
  if (state_.factor == 1.0) return;
  for (const torch::Tensor& parameter : parameters) {
    if (parameter.grad().defined()) parameter.grad().mul_(1.0 / state_.factor);
  }
}

bool LossScaler::update(const StepStats& stats) {
  const bool good = stats.is_finite();
  if (options_.kind != LossScalingKind::kDynamic) return good;
  if (!good) {
    state_ = {.factor = state_.factor * options_.backoff_factor, .good_steps = 0};
  } else if (++state_.good_steps >= options_.growth_interval_steps) {
    state_ = {.factor = std::min(state_.factor * kGrowthFactor, kHighestScale), .good_steps = 0};
  }
  return good;
}

void LossScaler::restore(const State& state) {
  if (options_.kind == LossScalingKind::kDynamic) state_ = state;
}

void to_json(nlohmann::json& json, const LossScaler::State& state) {
  json = {{"factor", state.factor}, {"good_steps", state.good_steps}};
}

void from_json(const nlohmann::json& json, LossScaler::State& state) {
  json.at("factor").get_to(state.factor);
  json.at("good_steps").get_to(state.good_steps);
}

}  // namespace qlora::trainer
