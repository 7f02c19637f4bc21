#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/token_batch.h"
#include "io/base_record.h"
#include "trainer/checkpoint.h"
#include "trainer/run_directory.h"
#include "trainer/run_lock.h"
#include "trainer/run_recorder.h"
#include "trainer/train.h"

namespace qlora::trainer {

/// What surrounds the training loop: where it starts, when it evaluates and saves, how it ends.
/// One run of the program; a run that was resumed has several sessions.
class Session {
 public:
  /// Decides on the run directory and changes nothing in it.
  ///   throws    ConfigError where options, model and data do not fit each other
  Session(const TrainingState& state, const data::ExampleSet& train_set,
          const data::ExampleSet* eval_set, const TrainOptions& options, const RunFacts& facts,
          RunLog& log);

  /// Locks the run directory, restores the checkpoint, if there is one to go on from, and makes the
  /// directory; evaluates before the first step where that was asked for.
  ///   cost      with a checkpoint reads the base's files once, to hold them against its record
  Progress& resume_or_start();

  int64_t total_steps() const { return total_steps_; }
  double learning_rate() const;                   // of the step that comes next
  model::ForwardContext forward_context() const;  // of the micro-batch that comes next

  void record(const StepStats& stats, const StepClock& clock);
  void watch(const StepStats& stats);  // may roll back; throws ValueError where the run has to stop
  bool evaluation_is_due() const;
  void evaluate();  // saves too where this is the best and load_best_model_at_end wants it
  bool save_is_due() const;
  void save();

  /// After the loop: the final files of a run that came to its end, a checkpoint of one that was
  /// interrupted.
  TrainResult finish();

 private:
  /// Fits held grids where they begin or are due, and sets whether the model rounds.
  void move_grids();
  bool is_due(Strategy strategy, int64_t every_steps) const;
  bool is_saved() const { return newest_ && newest_->step == progress_.step; }
  TrainResult result() const;
  void load_best(TrainResult& result);
  /// Writes down once which weights are trained over. Where they cannot be read any more, a
  /// warning: what was trained is worth more.
  void record_base();
  void write_results(const TrainResult& result);
  /// Where the final files could not be written: saves what no checkpoint holds yet, if that can be
  /// done, and says how to go on.
  std::string keep_trained(const TrainResult& result);

  TrainingState state_;
  TrainOptions options_;
  const RunFacts& facts_;
  RunStart start_;
  RunIdentity identity_;
  std::vector<TokenBatch> eval_batches_;
  int64_t total_steps_;
  Progress progress_;
  std::optional<io::BaseRecord> base_;  // once it was asked for
  bool has_base_record_ = false;
  RunLog& user_log_;
  std::optional<RunLock> lock_;           // unset: the caller's, or before resume_or_start
  std::optional<RunRecorder> recorder_;   // from resume_or_start() on
  std::optional<CheckpointPath> newest_;  // checkpoint that this run may return to
  std::optional<double> first_loss_, last_loss_;
};

}  // namespace qlora::trainer
