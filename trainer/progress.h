#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

namespace qlora::trainer {

/// One measurement of the evaluation set.
struct Evaluation {
  int64_t step = 0;  // optimizer steps before it
  double loss = 0;   // mean negative log likelihood of a target token, nats
};

/// How far a run is. What a checkpoint holds beside the states.
struct Progress {
  int64_t step = 0;  // optimizer steps done, skipped ones included
  uint64_t micro_batches =
      0;  // forwards done: the place in the random numbers of dropout and noise
  int64_t tokens = 0;
  int64_t target_tokens = 0;
  double seconds = 0;  // of all steps of all sessions, without evaluation and saving
  std::optional<Evaluation> first_evaluation;
  std::optional<Evaluation> last_evaluation;
  std::optional<Evaluation> best_evaluation;
  nlohmann::json log_history = nlohmann::json::array();  // as transformers: every logging_steps
};

void to_json(nlohmann::json& json, const Progress& progress);
void from_json(const nlohmann::json& json, Progress& progress);

}  // namespace qlora::trainer
