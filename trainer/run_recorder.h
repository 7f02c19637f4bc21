#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "core/clock.h"
#include "core/log_sinks.h"
#include "core/progress.h"
#include "core/run_log.h"
#include "trainer/progress.h"
#include "trainer/step_stats.h"
#include "trainer/tensorboard_log.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

/// Wall and processor time since its construction: one for each step.
class StepClock {
 public:
  double seconds() const { return wall_seconds() - wall_; }
  double cpu_seconds() const { return process_cpu_seconds() - cpu_; }

 private:
  double wall_ = wall_seconds();
  double cpu_ = process_cpu_seconds();
};

/// Everything a run tells: each step to the caller's log, every logging_steps on a printed line,
/// the others on the live one; and all of them to log.jsonl and TensorBoard.
class RunRecorder {
 public:
  /// throws    IoError where log.jsonl or the event file cannot be made
  RunRecorder(const std::filesystem::path& run_dir, const TrainOptions& options,
              int64_t total_steps, int64_t steps_per_epoch, const Progress& progress, RunLog& log);

  RunLog& log() { return both_; }  // the caller's log and log.jsonl

  /// One finished step; counts its time and tokens into the progress.
  void step(Progress& progress, const StepStats& stats, const StepClock& clock);
  /// One evaluation; returns true where it is the best so far.
  bool evaluation(Progress& progress, double loss, int64_t tokens, double seconds);
  void checkpoint(const Progress& progress, const std::filesystem::path& path, double seconds);
  void event(const std::string& kind, const nlohmann::json& record) { both_.event(kind, record); }
  /// After the last step: what is printed next stands on a line of its own.
  void end_live() { user_.live(""); }

  /// From the start of the process to the end of its first step; unset before that.
  std::optional<double> seconds_to_first_step() const { return seconds_to_first_step_; }

 private:
  void tensorboard_step(const Progress& progress, const StepStats& stats, double tokens_per_second);

  TrainOptions options_;
  double steps_per_epoch_;
  RunLog& user_;
  JsonlLog jsonl_;
  TeeLog both_;
  std::unique_ptr<TensorboardLog> tensorboard_;  // null: not asked for
  ProgressMeter meter_;
  std::optional<double> seconds_to_first_step_;
  double line_loss_ = 0;  // sum and number of applied steps since the last printed line
  int64_t line_steps_ = 0;
};

/// Seconds since this process was started, loading of libraries included.
double process_age_seconds();

}  // namespace qlora::trainer
