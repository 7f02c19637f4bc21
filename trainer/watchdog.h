#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>

#include "trainer/step_stats.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

enum class Verdict { kGoOn, kRollBack };

/// Notices a run that has gone wrong: too many skipped steps in a row, or a loss that stays far
/// above what it was.
class Watchdog {
 public:
  explicit Watchdog(const WatchdogOptions& options) : options_(options) {}

  /// Looks at one finished step.
  ///   can_roll_back  there is a checkpoint to return to
  ///   returns        kRollBack where the options ask for it and it may still be done
  ///   throws         ValueError where the run has to stop, with the number that was too much
  Verdict check(const StepStats& stats, bool can_roll_back);

  int64_t skipped_steps() const { return state_.skipped_steps; }

  /// What the losses were says nothing of what they will be, e.g. where rounding begins.
  void forget_losses() {
    state_.losses.clear();
    state_.spikes_in_row = 0;
  }

  struct State {
    int64_t skipped_steps = 0;   // in the whole run
    int64_t skipped_in_row = 0;  //
    int64_t spikes_in_row = 0;
    int64_t rollbacks = 0;
    std::deque<double> losses;  // the last ones without a spike
  };
  const State& state() const { return state_; }
  void restore(State state) { state_ = std::move(state); }

 private:
  bool is_spike(double loss) const;
  std::string skipped(const StepStats& stats);  // what is wrong now, or nothing
  std::string applied(const StepStats& stats);

  WatchdogOptions options_;
  State state_;
};

void to_json(nlohmann::json& json, const Watchdog::State& state);
void from_json(const nlohmann::json& json, Watchdog::State& state);

}  // namespace qlora::trainer
