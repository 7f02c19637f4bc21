#include "trainer/progress.h"

namespace qlora::trainer {
namespace {

nlohmann::json evaluation_json(const std::optional<Evaluation>& evaluation) {
  if (!evaluation) return nullptr;
  return {{"step", evaluation->step}, {"loss", evaluation->loss}};
}

std::optional<Evaluation> evaluation_from(const nlohmann::json& json) {
  if (json.is_null()) return std::nullopt;
  return Evaluation{.step = json.at("step").get<int64_t>(), .loss = json.at("loss").get<double>()};
}

}  // namespace

void to_json(nlohmann::json& json, const Progress& progress) {
  json = {{"global_step", progress.step},
          {"micro_batches", progress.micro_batches},
          {"tokens", progress.tokens},
          {"target_tokens", progress.target_tokens},
          {"seconds", progress.seconds},
          {"first_evaluation", evaluation_json(progress.first_evaluation)},
          {"last_evaluation", evaluation_json(progress.last_evaluation)},
          {"best_evaluation", evaluation_json(progress.best_evaluation)},
          {"log_history", progress.log_history}};
}

void from_json(const nlohmann::json& json, Progress& progress) {
  json.at("global_step").get_to(progress.step);
  json.at("micro_batches").get_to(progress.micro_batches);
  json.at("tokens").get_to(progress.tokens);
  json.at("target_tokens").get_to(progress.target_tokens);
  json.at("seconds").get_to(progress.seconds);
  progress.first_evaluation = evaluation_from(json.at("first_evaluation"));
  progress.last_evaluation = evaluation_from(json.at("last_evaluation"));
  progress.best_evaluation = evaluation_from(json.at("best_evaluation"));
  progress.log_history = json.at("log_history");
}

}  // namespace qlora::trainer
