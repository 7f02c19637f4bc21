#include "trainer/run_recorder.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>

#include "core/memory.h"

namespace qlora::trainer {
namespace {

bool wants_tensorboard(const TrainOptions& options) {
  const auto& to = options.report_to;
  return std::find(to.begin(), to.end(), "tensorboard") != to.end();
}

double per_second(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0.0;
}

}  // namespace

double process_age_seconds() {
  std::ifstream file("/proc/self/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const size_t name_end = text.rfind(')');  // the name may hold spaces
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  constexpr int kStartTime = 22 - 2;  // proc(5) counts from 1; pid and name are behind us
  for (int i = 0; i < kStartTime; ++i) fields >> field;
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
  const double started = std::strtod(field.c_str(), nullptr) / ticks;
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 - started;
}

RunRecorder::RunRecorder(const std::filesystem::path& run_dir, const TrainOptions& options,
                         int64_t total_steps, int64_t steps_per_epoch, const Progress& progress,
                         RunLog& log)
    : options_(options),
      steps_per_epoch_(static_cast<double>(steps_per_epoch)),
      user_(log),
      jsonl_(run_dir / "log.jsonl"),
      both_({&user_, &jsonl_}),
      meter_(total_steps, progress.step) {
  if (wants_tensorboard(options)) {
    tensorboard_ = std::make_unique<TensorboardLog>(run_dir / "runs", progress.step + 1);
  }
}

void RunRecorder::step(Progress& progress, const StepStats& stats, const StepClock& clock) {
  const double seconds = clock.seconds(), cpu_seconds = clock.cpu_seconds();
  progress.seconds += seconds;
  progress.tokens += stats.tokens;
  progress.target_tokens += stats.target_tokens;
  meter_.add_step(seconds, stats.tokens);
  const double epoch = static_cast<double>(progress.step) / steps_per_epoch_;
  nlohmann::json record = {{"step", progress.step},
                           {"epoch", epoch},
                           {"loss", stats.loss},
                           {"learning_rate", stats.learning_rate},
                           {"grad_norm", stats.gradient_norm},
                           {"tokens", stats.tokens},
                           {"target_tokens", stats.target_tokens},
                           {"seconds", seconds},
                           {"cpu_seconds", cpu_seconds},
                           {"tokens_per_second", per_second(stats.tokens, seconds)},
                           {"tokens_per_cpu_second", per_second(stats.tokens, cpu_seconds)},
                           {"rss_bytes", current_rss_bytes()},
                           {"loss_scale", stats.loss_scale},
                           {"applied", stats.applied}};
  if (!seconds_to_first_step_) {
    seconds_to_first_step_ = process_age_seconds();
    record["seconds_to_first_step"] = *seconds_to_first_step_;
  }
  both_.event("step", record);
  tensorboard_step(progress, stats, per_second(stats.tokens, seconds));

  if (!stats.applied) {
    both_.warn(
        fmt::format("[trainer] step {} is skipped: loss {}, gradient norm {} (allowed: below "
                    "{:g}), loss scale {}",
                    progress.step, without_nan_sign(stats.loss),
                    without_nan_sign(stats.gradient_norm), kHighestNorm, stats.loss_scale));
  } else {
    line_loss_ += stats.loss;
    ++line_steps_;
  }
  const uint64_t memory = current_rss_bytes();
  const bool is_due = progress.step % options_.logging_steps == 0;
  if (is_due && line_steps_ > 0) {
    const double mean = line_loss_ / static_cast<double>(line_steps_);
    user_.live("");
    user_.notice(meter_.line(mean, memory));
    progress.log_history.push_back({{"step", progress.step},
                                    {"epoch", epoch},
                                    {"loss", mean},
                                    {"grad_norm", stats.gradient_norm},
                                    {"learning_rate", stats.learning_rate}});
    line_loss_ = 0;
    line_steps_ = 0;
  } else {
    user_.live(meter_.line(without_nan_sign(stats.loss), memory));
  }
}

void RunRecorder::tensorboard_step(const Progress& progress, const StepStats& stats,
                                   double tokens_per_second) {
  if (!tensorboard_) return;
  const double epoch = static_cast<double>(progress.step) / steps_per_epoch_;
  const std::array scalars = {Scalar{"train/loss", stats.loss},
                              Scalar{"train/grad_norm", stats.gradient_norm},
                              Scalar{"train/learning_rate", stats.learning_rate},
                              Scalar{"train/loss_scale", stats.loss_scale},
                              Scalar{"train/epoch", epoch},
                              Scalar{"train/tokens_per_second", tokens_per_second}};
  tensorboard_->add(progress.step, scalars);
}

bool RunRecorder::evaluation(Progress& progress, double loss, int64_t tokens, double seconds) {
  const Evaluation now{.step = progress.step, .loss = loss};
  const bool is_best =
      std::isfinite(loss) && (!progress.best_evaluation || loss < progress.best_evaluation->loss);
  if (std::isfinite(loss)) {  // a number that is none would not come back from JSON
    if (!progress.first_evaluation) progress.first_evaluation = now;
    progress.last_evaluation = now;
  }
  if (is_best) progress.best_evaluation = now;
  const double perplexity = std::exp(loss);
  both_.event("evaluation", {{"step", progress.step},
                             {"loss", loss},
                             {"perplexity", perplexity},
                             {"tokens", tokens},
                             {"seconds", seconds},
                             {"best", is_best}});
  progress.log_history.push_back(
      {{"step", progress.step}, {"eval_loss", loss}, {"eval_perplexity", perplexity}});
  if (tensorboard_) {
    const std::array scalars = {Scalar{"eval/loss", loss}, Scalar{"eval/perplexity", perplexity}};
    tensorboard_->add(progress.step, scalars);
  }
  user_.notice(fmt::format(
      "evaluation after step {}: loss {:.4f}, perplexity {:.3f} ({} tokens, {})", progress.step,
      without_nan_sign(loss), without_nan_sign(perplexity), tokens, duration_text(seconds)));
  return is_best;
}

void RunRecorder::checkpoint(const Progress& progress, const std::filesystem::path& path,
                             double seconds) {
  both_.event("checkpoint",
              {{"step", progress.step}, {"path", path.string()}, {"seconds", seconds}});
  user_.notice(fmt::format("saved {} ({})", path.string(), duration_text(seconds)));
}

}  // namespace qlora::trainer
