#include "cli/inspect_run.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/json_file.h"
#include "io/atomic_file.h"
#include "lora/peft_files.h"
#include "trainer/loss_curve.h"
#include "trainer/run_directory.h"

namespace qlora::cli {
namespace {

constexpr int64_t kMeanSteps = 10;  // the losses of single steps scatter

double mean_loss(std::vector<trainer::LossPoint>::const_iterator begin,
                 std::vector<trainer::LossPoint>::const_iterator end) {
  double sum = 0;
  for (auto point = begin; point != end; ++point) sum += point->loss;
  return sum / static_cast<double>(end - begin);
}

Json training_facts(const std::vector<trainer::LossPoint>& points) {
  const auto shown = std::min<int64_t>(kMeanSteps, static_cast<int64_t>(points.size()));
  return {{"steps", points.size()},
          {"last_step", points.back().step},
          {"first_loss", points.front().loss},
          {"last_loss", points.back().loss},
          {"mean_loss_of_first_steps", mean_loss(points.begin(), points.begin() + shown)},
          {"mean_loss_of_last_steps", mean_loss(points.end() - shown, points.end())}};
}

Json evaluation_facts(const std::vector<trainer::LossPoint>& points) {
  Json rows = Json::array();
  for (const trainer::LossPoint& point : points) {
    rows.push_back(
        {{"step", point.step}, {"loss", point.loss}, {"perplexity", std::exp(point.loss)}});
  }
  return rows;
}

Json checkpoint_facts(const std::filesystem::path& directory) {
  Json rows = Json::array();
  for (const trainer::CheckpointPath& checkpoint : trainer::list_checkpoints(directory)) {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(checkpoint.path)) {
      if (entry.is_regular_file()) bytes += entry.file_size();
    }
    const auto problem = io::manifest_problem(checkpoint.path);
    rows.push_back({{"name", checkpoint.path.filename().string()},
                    {"step", checkpoint.step},
                    {"size_bytes", bytes},
                    {"state", problem.value_or("complete")}});
  }
  return rows;
}

/// The keys that tell runs apart; the file itself holds all.
Json config_facts(const std::filesystem::path& file) {
  const Json config = read_json_file(file);
  Json facts = Json::object();
  for (const char* key : {"/model_name_or_path", "/data/dataset_name", "/data/tokens/file",
                          "/quantization/load_in_4bit", "/quantization/bnb_4bit_quant_type",
                          "/lora/r", "/lora/lora_alpha", "/lora/target_modules", "/learning_rate",
                          "/lr_scheduler_type", "/optim", "/compute_dtype", "/seed"}) {
    const Json::json_pointer pointer(key);
    if (!config.contains(pointer)) continue;
    const Json& value = config.at(pointer);
    if (value != Json("")) facts[pointer.back()] = value;
  }
  return facts;
}

/// Why the adapter of a run that has one cannot be loaded.
std::optional<std::string> adapter_problem(const std::filesystem::path& directory) {
  try {
    lora::read_peft_adapter(directory);
  } catch (const Error& error) {
    return fmt::format("the adapter cannot be read: {}", error.what());
  }
  return std::nullopt;
}

}  // namespace

bool is_run_directory(const std::filesystem::path& path) {
  return std::filesystem::exists(path / "log.jsonl");
}

Json inspect_run(const std::filesystem::path& directory, RunLog& log) {
  Json facts = {{"kind", "training run"}, {"path", directory.string()}};
  const std::filesystem::path config = directory / "config.resolved.json";
  if (std::filesystem::exists(config)) facts["config"] = config_facts(config);
  const std::filesystem::path log_file = directory / "log.jsonl";
  const trainer::LossHistory history = trainer::read_loss_history(log_file);
  if (const int64_t count = history.unreadable_lines; count > 0) {
    facts["unreadable_log_lines"] = count;
    log.warn(fmt::format("lines of {} that cannot be read and are passed over: {}",
                         log_file.string(), count));
  }
  if (!history.train.empty()) facts["training"] = training_facts(history.train);
  facts["evaluations"] = evaluation_facts(history.eval);
  facts["checkpoints"] = checkpoint_facts(directory);
  const bool has_adapter = std::filesystem::exists(directory / "adapter_model.safetensors");
  const auto problem = has_adapter ? adapter_problem(directory) : std::nullopt;
  // A run that was resumed has the adapter of its former end until the next.
  facts["finished"] = has_adapter && !problem && history.has_finished.value_or(true);
  if (problem) facts["problem"] = *problem;
  return facts;
}

}  // namespace qlora::cli
