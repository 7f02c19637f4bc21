#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "core/run_log.h"
#include "data/example_builder.h"
#include "model/decoder.h"
#include "trainer/progress.h"
#include "trainer/run_facts.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

/// What became of a run.
struct TrainResult {
  std::filesystem::path run_dir;
  int64_t steps = 0;          // done, those of earlier sessions included
  int64_t total_steps = 0;    // asked for
  bool interrupted = false;   // by Ctrl-C or SIGTERM; a checkpoint is saved, stop_exit_code() says
                              // what to exit with
  int64_t skipped_steps = 0;  // for a loss or gradient that was not finite, or too large
  double first_loss = 0;      // of this session's first and last applied step
  double last_loss = 0;
  std::optional<Evaluation> first_evaluation;
  std::optional<Evaluation> last_evaluation;
  std::optional<Evaluation> best_evaluation;
  std::optional<int64_t> loaded_step;  // of the checkpoint that load_best_model_at_end chose
  int64_t tokens = 0;
  int64_t target_tokens = 0;
  double seconds = 0;                           // of all steps of all sessions
  std::optional<double> seconds_to_first_step;  // from the start of the process
  uint64_t peak_rss_bytes = 0;
  std::optional<int64_t> peak_device_bytes;  // of the tensors on a CUDA device
};

/// Optimizer steps of a run: max_steps, else num_train_epochs rounded up to whole steps.
///   throws    ConfigError where these are more than kMaxSteps
int64_t total_steps(const TrainOptions& options, int64_t steps_per_epoch);

/// Fine-tunes the adapters of a model.
///   model     has adapters; they are changed in place
///   eval_set  null: no evaluation
///   options   output_dir and resume are judged as by check_run_directory, which a program asks
///             before it loads the model, and which warns of broken checkpoints
///   returns   after the last step, with the final adapter in output_dir; or, after a signal that
///             StopSignals noted, at the end of the step, with a checkpoint
///   throws    ConfigError, FormatError: options against each other, the directory or a checkpoint;
///             ValueError: a run that went wrong (Watchdog, check_trained); IoError: what is on
///             disk stays usable
TrainResult train(model::Decoder& model, const data::ExampleSet& train_set,
                  const data::ExampleSet* eval_set, const TrainOptions& options,
                  const RunFacts& facts, RunLog& log);

}  // namespace qlora::trainer
