#include "trainer/watchdog.h"

#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "core/error.h"

namespace qlora::trainer {

bool Watchdog::is_spike(double loss) const {
  const auto window = static_cast<size_t>(options_.loss_window_steps);
  if (options_.loss_spike_factor <= 0 || state_.losses.size() < window) return false;
  const double sum = std::accumulate(state_.losses.begin(), state_.losses.end(), 0.0);
  return loss > options_.loss_spike_factor * sum / static_cast<double>(window);
}

std::string Watchdog::skipped(const StepStats& stats) {
  ++state_.skipped_steps;
  if (++state_.skipped_in_row < options_.max_skipped_steps) return "";
  return fmt::format(
      "{} steps in a row were skipped (watchdog.max_skipped_steps is {}): the last has loss {} and "
      "gradient norm {}, allowed: a finite loss and a norm below {:g}; lower learning_rate or "
      "lora.lora_alpha, or use compute_dtype bf16 or fp32",
      state_.skipped_in_row, options_.max_skipped_steps, without_nan_sign(stats.loss),
      without_nan_sign(stats.gradient_norm), kHighestNorm);
}

std::string Watchdog::applied(const StepStats& stats) {
  state_.skipped_in_row = 0;
  if (!is_spike(stats.loss)) {
    state_.spikes_in_row = 0;
    state_.losses.push_back(stats.loss);
    const auto window = static_cast<size_t>(options_.loss_window_steps);
    if (state_.losses.size() > window) state_.losses.pop_front();
    return "";
  }
  if (++state_.spikes_in_row < options_.loss_spike_patience) return "";
  return fmt::format(
      "the loss stayed above {} times its mean of the last {} steps for {} steps (the last is "
      "{:.4f}); lower learning_rate, or raise watchdog.loss_spike_factor",
      options_.loss_spike_factor, options_.loss_window_steps, state_.spikes_in_row, stats.loss);
}

Verdict Watchdog::check(const StepStats& stats, bool can_roll_back) {
  const std::string trouble = stats.applied ? applied(stats) : skipped(stats);
  if (trouble.empty()) return Verdict::kGoOn;
  const bool roll_back = options_.action == WatchdogAction::kRollBack && can_roll_back &&
                         state_.rollbacks < options_.max_rollbacks;
  QLORA_CHECK(roll_back, ValueError, "[trainer] {}", trouble);
  ++state_.rollbacks;
  state_.skipped_in_row = 0;
  state_.spikes_in_row = 0;
  return Verdict::kRollBack;
}

void to_json(nlohmann::json& json, const Watchdog::State& state) {
  json = {{"skipped_steps", state.skipped_steps},
          {"skipped_in_row", state.skipped_in_row},
          {"spikes_in_row", state.spikes_in_row},
          {"rollbacks", state.rollbacks},
          {"losses", state.losses}};
}

void from_json(const nlohmann::json& json, Watchdog::State& state) {
  json.at("skipped_steps").get_to(state.skipped_steps);
  json.at("skipped_in_row").get_to(state.skipped_in_row);
  json.at("spikes_in_row").get_to(state.spikes_in_row);
  json.at("rollbacks").get_to(state.rollbacks);
  json.at("losses").get_to(state.losses);
}

}  // namespace qlora::trainer
