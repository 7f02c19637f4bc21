#include "trainer/finish.h"

#include <cmath>

#include "core/error.h"
#include "core/progress.h"
#include "data/tokenizer.h"
#include "io/atomic_file.h"
#include "lora/grid_files.h"
#include "lora/peft_files.h"
#include "trainer/loss_curve.h"
#include "trainer/run_report.h"
#include "trainer/step_stats.h"

namespace qlora::trainer {
namespace {

nlohmann::json evaluation_json(const std::optional<Evaluation>& evaluation) {
  if (!evaluation) return nullptr;
  return {{"step", evaluation->step},
          {"loss", evaluation->loss},
          {"perplexity", std::exp(evaluation->loss)}};
}

}  // namespace

void write_resolved_config(const std::filesystem::path& run_dir, const RunFacts& facts) {
  if (facts.config.is_null()) return;
  Json config = facts.config;
  const TrainOptions defaults;
  if (config.contains("resume")) config["resume"] = defaults.resume;
  if (config.contains("overwrite")) config["overwrite"] = defaults.overwrite;
  const auto exporting = config.find("export");
  if (exporting != config.end() && exporting->contains("overwrite")) {
    (*exporting)["overwrite"] = false;
  }
  io::write_file_atomic(run_dir / "config.resolved.json", config.dump(2) + "\n");
}

void write_final_files(const std::filesystem::path& run_dir, const model::Decoder& model,
                       const TrainOptions& options, const RunFacts& facts,
                       const TrainResult& result) {
  if (!facts.tokenizer_source.empty()) {
    std::vector<data::NamedTemplate> templates;  // what the adapter learnt to read
    if (!facts.chat_template_path.empty()) {
      templates.push_back({"default", io::read_file(facts.chat_template_path)});
    }
    data::save_tokenizer_files(facts.tokenizer_source, run_dir, templates);
  }
  if (options.report) {
    const auto history = read_loss_history(run_dir / "log.jsonl");
    const std::string title = std::filesystem::path(facts.base_model).filename().string();
    io::write_file_atomic(run_dir / "loss.svg", loss_curve_svg(history, "Loss of " + title));
    io::write_file_atomic(run_dir / "README.md",
                          run_readme(options, facts, result, model.trainable_parameter_count(),
                                     model.parameter_count()));
  }
  lora::write_grids(run_dir, model.grids());
  lora::write_peft_adapter(run_dir, model.adapters(), facts.lora, facts.base_model);
}

void check_trained(int64_t updates, const TrainResult& result) {
  QLORA_CHECK(updates > 0, ValueError,
              "[trainer] not one of {} steps was applied and kept ({} were skipped for a loss that "
              "is not finite or a gradient norm that is not below {:g}, see {}), so no adapter is "
              "written; lower learning_rate or lora.lora_alpha, or use compute_dtype bf16 or fp32",
              result.steps, result.skipped_steps, kHighestNorm,
              (result.run_dir / "log.jsonl").string());
}

nlohmann::json result_json(const TrainResult& result) {
  nlohmann::json json = {{"run_dir", result.run_dir.string()},
                         {"steps", result.steps},
                         {"total_steps", result.total_steps},
                         {"interrupted", result.interrupted},
                         {"skipped_steps", result.skipped_steps},
                         {"first_loss", result.first_loss},
                         {"last_loss", result.last_loss},
                         {"first_evaluation", evaluation_json(result.first_evaluation)},
                         {"last_evaluation", evaluation_json(result.last_evaluation)},
                         {"best_evaluation", evaluation_json(result.best_evaluation)},
                         {"tokens", result.tokens},
                         {"target_tokens", result.target_tokens},
                         {"seconds", result.seconds},
                         {"peak_rss_bytes", result.peak_rss_bytes}};
  if (result.peak_device_bytes) json["peak_device_bytes"] = *result.peak_device_bytes;
  json["loaded_step"] = result.loaded_step ? nlohmann::json(*result.loaded_step) : nullptr;
  json["seconds_to_first_step"] = result.seconds_to_first_step
                                      ? nlohmann::json(*result.seconds_to_first_step)
                                      : nlohmann::json(nullptr);
  return json;
}

std::string summary_text(const TrainResult& result) {
  std::string text = fmt::format(
      "{} of {} steps, {} tokens in {} ({} tok/s), peak memory {}", result.steps,
      result.total_steps, result.tokens, duration_text(result.seconds),
      rate_text(result.seconds > 0 ? static_cast<double>(result.tokens) / result.seconds : 0.0),
      bytes_text(result.peak_rss_bytes));
  if (result.peak_device_bytes) {
    text += fmt::format(", on the device {}", bytes_text(*result.peak_device_bytes));
  }
  if (result.seconds_to_first_step) {
    text += fmt::format("\nstart to first step {}", duration_text(*result.seconds_to_first_step));
  }
  if (result.skipped_steps > 0) text += fmt::format("\n{} steps skipped", result.skipped_steps);
  const auto &first = result.first_evaluation, &last = result.last_evaluation;
  if (first && last && first->step != last->step) {
    text +=
        fmt::format("\nperplexity {:.3f} -> {:.3f}", std::exp(first->loss), std::exp(last->loss));
  } else if (last) {
    text += fmt::format("\nperplexity {:.3f} after step {}", std::exp(last->loss), last->step);
  }
  return text + fmt::format("\n{}", result.run_dir.string());
}

}  // namespace qlora::trainer
