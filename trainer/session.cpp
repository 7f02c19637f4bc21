#include "trainer/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/cuda/device.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/signals.h"
#include "eval/perplexity.h"
#include "io/atomic_file.h"
#include "io/base_record.h"
#include "trainer/finish.h"
#include "trainer/resume_check.h"
#include "trainer/schedule.h"

namespace qlora::trainer {
namespace {

void check_fit(const TrainingState& state, const data::ExampleSet* eval_set,
               const TrainOptions& options) {
  QLORA_CHECK(!state.optimizer.parameters().empty(), ConfigError,
              "[trainer] the model has no adapters, so there is nothing to train; set "
              "lora.target_modules");
  const bool has_eval = eval_set != nullptr && eval_set->size() > 0;
  const bool wants_eval = options.evaluate.strategy != Strategy::kNo || options.evaluate.on_start ||
                          options.save.load_best_model_at_end;
  QLORA_CHECK(has_eval || !wants_eval, ConfigError,
              "[trainer] eval_strategy, eval_on_start or load_best_model_at_end ask for an "
              "evaluation, but there is no evaluation set; set data.eval_dataset_name or "
              "data.validation_split");
  QLORA_CHECK(options.evaluate.strategy != Strategy::kNo || !options.save.load_best_model_at_end,
              ConfigError,
              "[trainer] load_best_model_at_end is true and eval_strategy is no; set eval_strategy "
              "to steps or epoch");
  QLORA_CHECK(!options.activation_offloading || options.gradient_checkpointing, ConfigError,
              "[trainer] activation_offloading is true and gradient_checkpointing is false; only "
              "what checkpointing keeps is offloaded: set gradient_checkpointing to true");
}

/// Where a program has asked before, the warnings were given then.
RunStart start_of(const TrainOptions& options, const RunFacts& facts) {
  NullLog silent;
  return check_run_directory(options, silent, facts.lock);
}

/// The weights that the run trains over; nothing where they came from no file.
std::optional<io::BaseRecord> base_of(const RunFacts& facts) {
  if (facts.base_model.empty() || !io::is_present(facts.base_model)) return std::nullopt;
  return io::base_record_of(facts.base_model);
}

}  // namespace

Session::Session(const TrainingState& state, const data::ExampleSet& train_set,
                 const data::ExampleSet* eval_set, const TrainOptions& options,
                 const RunFacts& facts, RunLog& log)
    : state_(state),
      options_(options),
      facts_(facts),
      start_(start_of(options, facts)),
      identity_{.options = identity_json(options, facts), .train_hash = hash_examples(train_set)},
      total_steps_(trainer::total_steps(options, state.batches.steps_per_epoch())),
      user_log_(log) {
  check_fit(state, eval_set, options);
  if (options.activation_offloading && state.model.device().is_cpu()) {
    user_log_.notice("activation_offloading changes nothing: the model is on the CPU");
  }
  const bool evaluates = options.evaluate.strategy != Strategy::kNo || options.evaluate.on_start;
  if (evaluates) eval_batches_ = data::evaluation_batches(*eval_set, options.evaluate.batch_size);
}

Progress& Session::resume_or_start() {
  if (facts_.lock == nullptr) lock_.emplace(start_.run_dir, user_log_);
  if (start_.checkpoint) {
    progress_ = load_checkpoint(*start_.checkpoint, state_, identity_, user_log_);
    check_within_run(*start_.checkpoint, progress_.step, total_steps_);
    base_ = base_of(facts_);
    if (base_) check_same_base(*start_.checkpoint, *base_);
    newest_ = {progress_.step, *start_.checkpoint};
    user_log_.notice(
        fmt::format("resumed from {} at step {}", start_.checkpoint->string(), progress_.step));
  }
  const bool has_grids = start_.checkpoint && has_saved_grids(*start_.checkpoint);
  if (has_grids) {
    state_.model.set_fake_quant(progress_.step >= options_.fake_quant.start_step);
  } else {
    move_grids();
  }
  prepare_run_directory(start_, progress_.step);
  recorder_.emplace(start_.run_dir, options_, total_steps_, state_.batches.steps_per_epoch(),
                    progress_, user_log_);
  write_resolved_config(start_.run_dir, facts_);
  recorder_->event("start", {{"step", progress_.step},
                             {"total_steps", total_steps_},
                             {"steps_per_epoch", state_.batches.steps_per_epoch()},
                             {"resumed", start_.checkpoint.has_value()},
                             {"trainable_parameters", state_.model.trainable_parameter_count()},
                             {"base_parameters", state_.model.parameter_count()}});
  if (progress_.step == 0 && options_.evaluate.on_start) evaluate();
  return progress_;
}

double Session::learning_rate() const {
  return trainer::learning_rate(options_.schedule, options_.optimizer.learning_rate, progress_.step,
                                total_steps_);
}

model::ForwardContext Session::forward_context() const {
  return {
      .training = true,
      .gradient_checkpointing = options_.gradient_checkpointing,
      .activation_offloading = options_.activation_offloading && state_.model.device().is_cuda(),
      .neftune_noise_alpha = options_.neftune_noise_alpha,
      .seed = options_.seed,
      .draw = progress_.micro_batches};
}

void Session::record(const StepStats& stats, const StepClock& clock) {
  if (stats.applied) {
    if (!first_loss_) first_loss_ = stats.loss;
    last_loss_ = stats.loss;
  }
  recorder_->step(progress_, stats, clock);
  if (state_.model.grids().empty()) return;
  const bool was_rounding = state_.model.is_rounding();
  if (was_rounding) state_.model.end_grid_step();
  move_grids();
  if (!was_rounding && state_.model.is_rounding()) state_.watchdog.forget_losses();
}

void Session::move_grids() {
  const auto& schedule = options_.fake_quant;
  const int64_t since = progress_.step - schedule.start_step;
  if (since < 0) return;
  const bool is_due = schedule.refresh_steps > 0 && since % schedule.refresh_steps == 0;
  if (!state_.model.is_rounding() || is_due) state_.model.fit_grids();
  state_.model.set_fake_quant(true);
}

void Session::watch(const StepStats& stats) {
  if (state_.watchdog.check(stats, newest_.has_value()) == Verdict::kGoOn) return;
  load_learnt_state(newest_->path, state_);
  // A checkpoint from before rounding began holds no grids: they are those of its adapters.
  if (state_.model.is_rounding() && !has_saved_grids(newest_->path)) state_.model.fit_grids();
  recorder_->event("rollback", {{"step", progress_.step}, {"to_step", newest_->step}});
  recorder_->log().warn(fmt::format(
      "[trainer] step {}: rolled back to the adapters of step {}; the data goes on from here",
      progress_.step, newest_->step));
}

bool Session::is_due(Strategy strategy, int64_t every_steps) const {
  const int64_t step = progress_.step;
  switch (strategy) {
    case Strategy::kNo:
      return false;
    case Strategy::kSteps:
      return step % every_steps == 0 || step == total_steps_;
    case Strategy::kEpoch:
      return step % state_.batches.steps_per_epoch() == 0 || step == total_steps_;
  }
  return false;
}

bool Session::evaluation_is_due() const {
  const int64_t every =
      options_.evaluate.steps > 0 ? options_.evaluate.steps : options_.logging_steps;
  return is_due(options_.evaluate.strategy, every);
}

void Session::evaluate() {
  const Stopwatch watch;
  const auto measured = eval::perplexity(state_.model, eval_batches_, recorder_->log());
  const bool is_best =
      recorder_->evaluation(progress_, measured.nll, measured.tokens, watch.seconds());
  if (is_best && options_.save.load_best_model_at_end) save();
}

bool Session::save_is_due() const {
  return is_due(options_.save.strategy, options_.save.steps) && !is_saved();
}

void Session::record_base() {
  if (std::exchange(has_base_record_, true)) return;
  try {
    if (!base_) base_ = base_of(facts_);
    if (base_) io::write_base_record(start_.run_dir, *base_);
  } catch (const Error& error) {
    recorder_->log().warn(
        fmt::format("[trainer] which base was trained over is not recorded: {}", error.what()));
  }
}

void Session::save() {
  const Stopwatch watch;
  const auto directory = checkpoint_path(start_.run_dir, progress_.step);
  save_checkpoint(directory, progress_, state_, identity_, facts_);
  newest_ = {progress_.step, directory};
  recorder_->checkpoint(progress_, directory, watch.seconds());
  record_base();  // reads all of the base: a run that is to stop has saved before
  const int64_t best = progress_.best_evaluation ? progress_.best_evaluation->step : -1;
  prune_checkpoints(start_.run_dir, options_.save.total_limit, best);
}

TrainResult Session::finish() {
  recorder_->end_live();
  if (progress_.step < total_steps_) {  // a signal ended the loop
    if (!is_saved()) save();
    TrainResult stopped = result();
    stopped.interrupted = true;
    recorder_->event("interrupted", {{"step", progress_.step}, {"signal", stop_signal()}});
    return stopped;
  }
  if (const auto paging = state_.optimizer.paging()) {
    recorder_->event("paging", {{"bytes_in", paging->bytes_in},
                                {"bytes_out", paging->bytes_out},
                                {"stall_ms", paging->stall_ms}});
  }
  TrainResult finished = result();
  check_trained(state_.optimizer.updates(), finished);
  if (options_.save.load_best_model_at_end) load_best(finished);
  write_results(finished);
  recorder_->event("finish", result_json(finished));
  return finished;
}

void Session::write_results(const TrainResult& result) {
  try {
    record_base();
    write_final_files(start_.run_dir, state_.model, options_, facts_, result);
  } catch (const IoError& error) {
    throw IoError(fmt::format("{}; {}", error.what(), keep_trained(result)));
  } catch (const std::exception&) {
    recorder_->log().warn("[trainer] the final files are not written: " + keep_trained(result));
    throw;
  }
}

std::string Session::keep_trained(const TrainResult& result) {
  // load_best may have put the adapter of another step into the model.
  const bool is_as_trained = result.loaded_step.value_or(progress_.step) == progress_.step;
  std::string problem;
  if (!is_saved() && is_as_trained) {
    try {
      save();
    } catch (const std::exception& error) {
      problem = error.what();
    }
  }
  if (!newest_) {
    return fmt::format(
        "what was trained is lost: no checkpoint can be saved either ({}); mend "
        "that and train again",
        problem);
  }
  const bool is_here = newest_->path.parent_path() == start_.run_dir;
  return fmt::format("the checkpoint of step {} is kept in {}: once that is mended, --resume {} {}",
                     newest_->step, newest_->path.string(),
                     is_here ? "auto" : newest_->path.string(),
                     is_saved() ? "writes the final files" : "goes on from it");
}

void Session::load_best(TrainResult& result) {
  if (!progress_.best_evaluation) {
    recorder_->log().warn("[trainer] no evaluation gave a finite loss: the last adapter stays");
    return;
  }
  const int64_t step = progress_.best_evaluation->step;
  if (step != progress_.step) {
    auto directory = checkpoint_path(start_.run_dir, step);
    // A run that was resumed from elsewhere may have left its best checkpoint there.
    if (!std::filesystem::exists(directory) && start_.checkpoint) {
      directory = checkpoint_path(start_.checkpoint->parent_path(), step);
    }
    io::verify_manifest(directory);
    load_adapters(directory, state_.model);
  }
  result.loaded_step = step;
  recorder_->log().notice(
      fmt::format("the best adapter is that of step {} (evaluation loss {:.4f})", step,
                  progress_.best_evaluation->loss));
}

TrainResult Session::result() const {
  const torch::Device device = state_.model.device();
  return {.run_dir = start_.run_dir,
          .steps = progress_.step,
          .total_steps = total_steps_,
          .interrupted = false,
          .skipped_steps = state_.watchdog.skipped_steps(),
          .first_loss = first_loss_.value_or(std::nan("")),
          .last_loss = last_loss_.value_or(std::nan("")),
          .first_evaluation = progress_.first_evaluation,
          .last_evaluation = progress_.last_evaluation,
          .best_evaluation = progress_.best_evaluation,
          .loaded_step = std::nullopt,
          .tokens = progress_.tokens,
          .target_tokens = progress_.target_tokens,
          .seconds = progress_.seconds,
          .seconds_to_first_step = recorder_->seconds_to_first_step(),
          .peak_rss_bytes = peak_rss_bytes(),
          .peak_device_bytes = device.is_cuda()
                                   ? std::optional(cuda::peak_tensor_bytes(device.index()))
                                   : std::nullopt};
}

}  // namespace qlora::trainer
