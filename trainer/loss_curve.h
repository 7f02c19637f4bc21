#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace qlora::trainer {

struct LossPoint {
  double step = 0;
  double loss = 0;
};

/// What a run's loss did: every step that was applied, and every evaluation.
struct LossHistory {
  std::vector<LossPoint> train;
  std::vector<LossPoint> eval;
  std::optional<bool> has_finished;  // the last session; unset where the log tells of none
  int64_t unreadable_lines = 0;      // that are no JSON objects
};

/// Reads log.jsonl. A step that stands there twice (a run that was killed and resumed) counts as it
/// stands last; lines that are no JSON, such as one that a crash has cut, are passed over and
/// counted.
///   throws    IoError where the file cannot be read
LossHistory read_loss_history(const std::filesystem::path& log_jsonl);

/// Removes the steps and evaluations after `step` from log.jsonl, so that a resumed run does not
/// tell them twice. The rest keeps its bytes; nothing happens where there is no file.
void cut_log(const std::filesystem::path& log_jsonl, int64_t step);

/// A picture of the history: each step's loss, its running mean, the evaluations. Self-contained
/// SVG that follows the reader's light or dark theme.
std::string loss_curve_svg(const LossHistory& history, const std::string& title);

}  // namespace qlora::trainer
