#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/constraint.h"
#include "data/data_options.h"

namespace qlora::trainer {

enum class OptimizerKind { kPagedAdamW8bit, kAdamW8bit, kAdamW32bit };
enum class ScheduleKind { kLinear, kCosine, kConstant, kConstantWithWarmup };
enum class LossScalingKind { kAuto, kDynamic, kStatic, kOff };
enum class Strategy { kNo, kSteps, kEpoch };
enum class WatchdogAction { kStop, kRollBack };

/// AdamW (Loshchilov and Hutter, arXiv:1711.05101).
struct OptimizerOptions {
  OptimizerKind kind = OptimizerKind::kPagedAdamW8bit;
  double learning_rate = 2e-4;  // the schedule's peak
  double weight_decay = 0.0;    // per step, times the learning rate, before the update
  double beta1 = 0.9;           // decay of the mean of gradients
  double beta2 = 0.999;         // decay of the mean of squared gradients
  double epsilon = 1e-8;        // added to the root of the latter
};

/// Learning rate over the run, as transformers computes it.
struct ScheduleOptions {
  ScheduleKind kind = ScheduleKind::kLinear;
  double warmup_ratio = 0.0;  // of all steps, rounded up
  int64_t warmup_steps = 0;   // counts where it is above 0, else warmup_ratio
};

/// FP16 gradients underflow: the loss is multiplied before and the gradient divided after backward.
struct LossScalingOptions {
  LossScalingKind kind = LossScalingKind::kAuto;
  double initial_scale = 65536.0;
  int64_t growth_interval_steps = 2000;
  double backoff_factor = 0.5;
};

struct EvaluateOptions {
  Strategy strategy = Strategy::kNo;
  int64_t steps = 0;  // 0: logging_steps
  int64_t batch_size = 4;
  bool on_start = false;
};

struct SaveOptions {
  Strategy strategy = Strategy::kSteps;
  int64_t steps = 500;
  int64_t total_limit = 0;  // 0: keep all
  bool load_best_model_at_end = false;
};

/// What ends a run that has gone wrong before it wastes the night.
struct WatchdogOptions {
  int64_t max_skipped_steps = 20;  // in a row; a fresh FP16 scale may need 16
  double loss_spike_factor = 0.0;  // 0: off
  int64_t loss_spike_patience = 3;
  int64_t loss_window_steps = 50;
  WatchdogAction action = WatchdogAction::kStop;
  int64_t max_rollbacks = 3;
};

/// When rounding to the model's grids, if it has any, begins and when grids are fitted anew.
struct FakeQuantSchedule {
  int64_t start_step = 0;
  int64_t refresh_steps = 0;  // 0: never
};

inline constexpr double kMaxEpochs = 1e6;
inline constexpr double kMaxSteps = 1e15;  // a double counts so far without a gap

/// Top-level keys of a configuration: how long, how fast, how often, and where to.
struct TrainOptions {
  std::string output_dir = "runs/out";
  double num_train_epochs = 3.0;
  int64_t max_steps = -1;  // above 0: counts instead of num_train_epochs
  uint64_t seed = 42;      // of the order of examples, dropout, NEFTune noise and new adapters
  data::BatchOptions batching;
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  double max_gradient_norm = 1.0;  // 0: no clipping
  bool gradient_checkpointing = false;
  bool activation_offloading = false;
  double neftune_noise_alpha = 0.0;  // Jain et al., arXiv:2310.05914; 0: off
  bool fp16 = false;
  bool bf16 = false;
  LossScalingOptions loss_scaling;
  int64_t logging_steps = 10;
  EvaluateOptions evaluate;
  SaveOptions save;
  WatchdogOptions watchdog;
  std::string resume;  // "auto", a checkpoint's folder, or empty
  bool overwrite = false;
  std::vector<std::string> report_to = {"tensorboard"};
  bool report = true;
  FakeQuantSchedule fake_quant;  // of section qat: not keys here
};

template <class V>
void fields(V& v, OptimizerOptions& o) {
  v("optim", o.kind, any_value(),
    "paged_adamw_8bit, adamw_8bit: states of one byte a number in blocks of 256 (paged: in managed "
    "memory on CUDA, the same on the CPU); adamw_torch: 32-bit states");
  v("learning_rate", o.learning_rate, non_negative(), "highest learning rate of the schedule");
  v("weight_decay", o.weight_decay, in_range(0, 1),
    "every parameter is multiplied by 1 - learning_rate * weight_decay before each update");
  v("adam_beta1", o.beta1, in_range(0, 0.999999), "decay of the running mean of gradients");
  v("adam_beta2", o.beta2, in_range(0, 0.99999999),
    "decay of the running mean of squared gradients");
  v("adam_epsilon", o.epsilon, positive(), "added to the root of that mean");
  v.alias("optimizer", "optim");
  v.alias("lr", "learning_rate");
}

template <class V>
void fields(V& v, ScheduleOptions& o) {
  v("lr_scheduler_type", o.kind, any_value(),
    "after the warmup: linear and cosine fall to 0 at the last step; constant has no warmup, "
    "constant_with_warmup has");
  v("warmup_ratio", o.warmup_ratio, in_range(0, 1),
    "share of all steps, rounded up, over which the rate rises from 0");
  v("warmup_steps", o.warmup_steps, non_negative(),
    "steps of the rise; above 0 it beats the ratio");
  v.alias("lr_scheduler", "lr_scheduler_type");
}

template <class V>
void fields(V& v, LossScalingOptions& o) {
  v("kind", o.kind, any_value(),
    "auto: dynamic where matrix products are FP16, else off; static keeps initial_scale");
  v("initial_scale", o.initial_scale, positive(), "factor of the loss at the first step");
  v("growth_interval_steps", o.growth_interval_steps, positive(),
    "dynamic: the factor doubles after so many good steps in a row");
  v("backoff_factor", o.backoff_factor, in_range(0.001, 0.999),
    "dynamic: the factor is multiplied by it where a gradient is not finite");
}

template <class V>
void fields(V& v, EvaluateOptions& o) {
  v("eval_strategy", o.strategy, any_value(),
    "when the evaluation set is measured: no, steps, epoch; steps and epoch also measure the end");
  v("eval_steps", o.steps, non_negative(), "optimizer steps between evaluations; 0: logging_steps");
  v("per_device_eval_batch_size", o.batch_size, in_range(1, 1 << 20), "examples at a time");
  v("eval_on_start", o.on_start, any_value(), "measure before the first step as well");
  v.alias("evaluation_strategy", "eval_strategy");
}

template <class V>
void fields(V& v, SaveOptions& o) {
  v("save_strategy", o.strategy, any_value(), "when a checkpoint is written: no, steps, epoch");
  v("save_steps", o.steps, positive(), "optimizer steps between checkpoints");
  v("save_total_limit", o.total_limit, non_negative(),
    "the oldest checkpoints beyond so many are deleted, the best one never; 0: keep all");
  v("load_best_model_at_end", o.load_best_model_at_end, any_value(),
    "the final adapter is that of the checkpoint with the lowest evaluation loss");
}

template <class V>
void fields(V& v, WatchdogOptions& o) {
  v("max_skipped_steps", o.max_skipped_steps, positive(),
    "steps in a row without a finite loss and gradient before the action");
  v("loss_spike_factor", o.loss_spike_factor, non_negative(),
    "a spike is a loss above this factor times the mean of the last steps; 0: never");
  v("loss_spike_patience", o.loss_spike_patience, positive(), "spikes in a row before the action");
  v("loss_window_steps", o.loss_window_steps, in_range(2, 100000),
    "steps in that mean; there is no spike before it is full");
  v("action", o.action, any_value(),
    "stop: the run ends with an error; roll_back: adapters, optimizer and loss scale return to the "
    "last checkpoint, the data goes on behind what caused the trouble (stop where there is none)");
  v("max_rollbacks", o.max_rollbacks, non_negative(), "the next one is a stop");
}

template <class V>
void fields(V& v, TrainOptions& o) {
  v("output_dir", o.output_dir, non_empty(), "the run directory; may not exist unless resumed");
  v("num_train_epochs", o.num_train_epochs,
    Constraint{.low = 0, .high = kMaxEpochs, .low_is_open = true}, "passes over the training set");
  v("max_steps", o.max_steps, in_range(-1, kMaxSteps),
    "optimizer steps; above 0 it counts instead of num_train_epochs");
  v("seed", o.seed, any_value(), "of the order of examples, dropout, noise and new adapters");
  v.inline_section(o.batching);
  v.inline_section(o.optimizer);
  v.inline_section(o.schedule);
  v("max_grad_norm", o.max_gradient_norm, non_negative(),
    "gradients are scaled down to this norm over all adapters; 0: never");
  v("gradient_checkpointing", o.gradient_checkpointing, any_value(),
    "keep one tensor a block and compute the rest again in backward: less memory, a third slower");
  v("activation_offloading", o.activation_offloading, any_value(),
    "with gradient_checkpointing on CUDA: that tensor waits in pinned host memory; on the CPU it "
    "changes nothing");
  v("neftune_noise_alpha", o.neftune_noise_alpha, non_negative(),
    "uniform noise on the embeddings in training, alpha / sqrt(tokens * width); 0: off");
  v("fp16", o.fp16, any_value(),
    "matrix products in FP16 where compute_dtype is auto; a compute_dtype that is set wins");
  v("bf16", o.bf16, any_value(),
    "matrix products in BF16 where compute_dtype is auto; a compute_dtype that is set wins");
  v.section("loss_scaling", o.loss_scaling, "keeps FP16 gradients from underflow");
  v("logging_steps", o.logging_steps, positive(),
    "steps between two printed lines; log.jsonl and TensorBoard get every step");
  v.inline_section(o.evaluate);
  v.inline_section(o.save);
  v.section("watchdog", o.watchdog, "ends or rolls back a run that has gone wrong");
  v("resume", o.resume, any_value(),
    "auto: go on from the newest complete checkpoint of output_dir; or a checkpoint's folder");
  v("overwrite", o.overwrite, any_value(),
    "delete what an earlier run wrote into output_dir, then start; what holds no run is refused");
  v("report_to", o.report_to, one_of({"tensorboard", "none"}),
    "beside log.jsonl: TensorBoard event files under output_dir/runs");
  v("report", o.report, any_value(), "write README.md and loss.svg at the end");
  v.alias("run_dir", "output_dir");
  v.alias("num_epochs", "num_train_epochs");
  v.alias("epochs", "num_train_epochs");
  v.alias("batch_size", "per_device_train_batch_size");
  v.alias("micro_batch_size", "per_device_train_batch_size");
  v.alias("sample_packing", "packing");
  v.alias("max_gradient_norm", "max_grad_norm");
  v.alias("gradient_clipping", "max_grad_norm");
  v.alias("resume_from_checkpoint", "resume");
  v.alias("overwrite_output_dir", "overwrite");
}

}  // namespace qlora::trainer

template <>
struct qlora::EnumNames<qlora::trainer::OptimizerKind> {
  using E = qlora::trainer::OptimizerKind;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kPagedAdamW8bit, "paged_adamw_8bit"},
      {E::kAdamW8bit, "adamw_8bit"},
      {E::kAdamW32bit, "adamw_torch"},
      {E::kPagedAdamW8bit, "paged_adamw_bnb_8bit"},
      {E::kAdamW8bit, "adamw_bnb_8bit"},
      {E::kAdamW32bit, "adamw_torch_fused"},
      {E::kAdamW32bit, "adamw_hf"},
      {E::kAdamW32bit, "paged_adamw_32bit"},
      {E::kAdamW32bit, "adamw"}};
};
template <>
struct qlora::EnumNames<qlora::trainer::ScheduleKind> {
  using E = qlora::trainer::ScheduleKind;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kLinear, "linear"},
      {E::kCosine, "cosine"},
      {E::kConstant, "constant"},
      {E::kConstantWithWarmup, "constant_with_warmup"}};
};
template <>
struct qlora::EnumNames<qlora::trainer::LossScalingKind> {
  using E = qlora::trainer::LossScalingKind;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"}, {E::kDynamic, "dynamic"}, {E::kStatic, "static"}, {E::kOff, "off"}};
};
template <>
struct qlora::EnumNames<qlora::trainer::Strategy> {
  using E = qlora::trainer::Strategy;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kNo, "no"}, {E::kSteps, "steps"}, {E::kEpoch, "epoch"}};
};
template <>
struct qlora::EnumNames<qlora::trainer::WatchdogAction> {
  using E = qlora::trainer::WatchdogAction;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kStop, "stop"},
                                                         {E::kRollBack, "roll_back"}};
};
