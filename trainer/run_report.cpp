#include "trainer/run_report.h"

#include <fmt/format.h>

#include <cmath>

#include "core/progress.h"
#include "core/text.h"

namespace qlora::trainer {
namespace {

std::string row(const std::string& name, const std::string& value) {
  return fmt::format("| {} | {} |\n", name, table_text(value));
}

template <class E>
std::string name_of(E value) {
  for (const auto& [candidate, name] : EnumNames<E>::kNames) {
    if (candidate == value) return name;
  }
  return "?";
}

std::string evaluation_row(const char* when, const Evaluation& evaluation) {
  return fmt::format("| {} (step {}) | {:.4f} | {:.3f} |\n", when, evaluation.step, evaluation.loss,
                     std::exp(evaluation.loss));
}

std::string evaluations(const TrainResult& result) {
  if (!result.first_evaluation) return "";
  std::string text =
      "\n## Evaluation\n\n| held-out examples | loss (nats/token) | perplexity |\n|---|---|---|\n";
  text += evaluation_row("first", *result.first_evaluation);
  text += evaluation_row("best", *result.best_evaluation);
  text += evaluation_row("last", *result.last_evaluation);
  if (result.loaded_step) {
    text += fmt::format("\nThe adapter in this folder is that of step {}.\n", *result.loaded_step);
  }
  return text;
}

std::string settings(const TrainOptions& options, const RunFacts& facts) {
  std::string text = "\n## Settings\n\n| | |\n|---|---|\n";
  text += row("training set", facts.data_name);
  text += row("rank, alpha, dropout", fmt::format("{}, {}, {}", facts.lora.r, facts.lora.lora_alpha,
                                                  facts.lora.lora_dropout));
  text += row("optimizer", name_of(options.optimizer.kind));
  text += row("learning rate", fmt::format("{:g}, {}", options.optimizer.learning_rate,
                                           name_of(options.schedule.kind)));
  text += row("examples a step",
              fmt::format("{} x {} accumulated", options.batching.per_device_train_batch_size,
                          options.batching.gradient_accumulation_steps));
  text += row("seed", std::to_string(options.seed));
  return text + "\nAll of them: [config.resolved.json](config.resolved.json).\n";
}

/// What was measured beside what the plan said before anything was loaded.
std::string memory_text(const TrainResult& result, const RunFacts& facts) {
  // The plan is one of the device that trains.
  const auto used = result.peak_device_bytes ? static_cast<uint64_t>(*result.peak_device_bytes)
                                             : result.peak_rss_bytes;
  std::string measured = bytes_text(used);
  if (result.peak_device_bytes) {
    measured += fmt::format(" on the device, {} on the host", bytes_text(result.peak_rss_bytes));
  }
  if (facts.planned_bytes == 0 || used == 0) return measured;
  const double ratio = static_cast<double>(facts.planned_bytes) / static_cast<double>(used);
  return fmt::format("{}; planned {} ({:+.0f}%)", measured, bytes_text(facts.planned_bytes),
                     100 * (ratio - 1));
}

std::string measured(const TrainResult& result, const RunFacts& facts) {
  const double rate =
      result.seconds > 0 ? static_cast<double>(result.tokens) / result.seconds : 0.0;
  std::string text = "\n## Run\n\n| | |\n|---|---|\n";
  text += row("steps", fmt::format("{} of {}", result.steps, result.total_steps));
  text += row("skipped steps", std::to_string(result.skipped_steps));
  text += row("tokens (learnt)",
              fmt::format("{} ({})", count_text(result.tokens), count_text(result.target_tokens)));
  text += row("time in steps", duration_text(result.seconds));
  text += row("tokens per second", rate_text(rate));
  if (result.seconds_to_first_step) {
    text += row("start to first step", duration_text(*result.seconds_to_first_step));
  }
  return text + row("peak memory", memory_text(result, facts));
}

}  // namespace

std::string run_readme(const TrainOptions& options, const RunFacts& facts,
                       const TrainResult& result, int64_t trainable, int64_t base) {
  std::string text = fmt::format(
      "---\nbase_model: \"{0}\"\nlibrary_name: peft\ntags:\n- lora\n- qlora\n---\n\n"
      "# LoRA adapter of {0}\n\n"
      "{1} trained parameters beside {2} frozen ones ({3:.3f}%). peft reads this folder as it is;\n"
      "here: `qlora generate --model-path {0} --adapter {4}`.\n",
      table_text(facts.base_model), count_text(trainable), count_text(base),
      100.0 * static_cast<double>(trainable) / static_cast<double>(trainable + base),
      table_text(result.run_dir.string()));
  text += evaluations(result);
  text += "\n![Loss over steps](loss.svg)\n";
  text += measured(result, facts);
  text += settings(options, facts);
  return text;
}

}  // namespace qlora::trainer
