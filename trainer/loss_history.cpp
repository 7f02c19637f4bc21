#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/error.h"
#include "io/atomic_file.h"
#include "trainer/loss_curve.h"

namespace qlora::trainer {
namespace {

std::string kind_of(const nlohmann::json& line) {
  const auto kind = line.is_object() ? line.find("kind") : line.end();
  return kind != line.end() && kind->is_string() ? kind->get<std::string>() : "";
}

/// Step of a line that a resumed run would tell again; below 0: of no such line.
int64_t step_of(const nlohmann::json& line) {
  const std::string kind = kind_of(line);
  if (kind.empty() || !line.contains("step")) return -1;
  const bool repeats = kind == "step" || kind == "evaluation" || kind == "checkpoint";
  return repeats && line["step"].is_number_integer() ? line["step"].get<int64_t>() : -1;
}

std::vector<LossPoint> points(const std::map<int64_t, double>& losses) {
  std::vector<LossPoint> all;
  for (const auto& [step, loss] : losses) all.push_back({static_cast<double>(step), loss});
  return all;
}

}  // namespace

LossHistory read_loss_history(const std::filesystem::path& log_jsonl) {
  std::ifstream file(log_jsonl);
  QLORA_CHECK(file.good(), IoError, "[trainer] cannot read {}", log_jsonl.string());
  LossHistory history;
  std::map<int64_t, double> train, eval;
  for (std::string text; std::getline(file, text);) {
    const auto line = nlohmann::json::parse(text, nullptr, false);
    if (!text.empty() && !line.is_object()) ++history.unreadable_lines;
    const std::string kind = kind_of(line);
    if (kind == "start" || kind == "finish") history.has_finished = kind == "finish";
    const int64_t step = step_of(line);
    const auto loss = step < 0 ? line.end() : line.find("loss");
    if (loss == line.end() || !loss->is_number()) continue;
    (kind == "evaluation" ? eval : train)[step] = loss->get<double>();
  }
  history.train = points(train);
  history.eval = points(eval);
  return history;
}

void cut_log(const std::filesystem::path& log_jsonl, int64_t step) {
  std::error_code error;
  if (!std::filesystem::exists(log_jsonl, error)) return;
  std::ifstream file(log_jsonl);
  QLORA_CHECK(file.good(), IoError, "[trainer] cannot read {}", log_jsonl.string());
  std::string kept;
  bool is_whole = true;
  for (std::string text; std::getline(file, text);) {
    if (step_of(nlohmann::json::parse(text, nullptr, false)) > step) {
      is_whole = false;
    } else {
      kept += text + "\n";
    }
  }
  if (!is_whole) io::write_file_atomic(log_jsonl, kept);
}

}  // namespace qlora::trainer
