#include "cli/plan.h"

#include <sstream>

#include "cli/output.h"
#include "cli/run_shape.h"
#include "core/cuda/device.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/progress.h"
#include "core/text.h"
#include "data/batches.h"
#include "io/checkpoint.h"
#include "lora/targets.h"
#include "trainer/train.h"

namespace qlora::cli {
namespace {

int64_t adapted_linears(const std::vector<model::PlannedLinear>& linears) {
  int64_t count = 0;
  for (const model::PlannedLinear& linear : linears) count += linear.rank > 0 ? 1 : 0;
  return count;
}

/// Memory that is left where the run trains; 0: not known.
uint64_t available_bytes(const model::PlanShape& shape) {
  if (shape.device == model::PlanDevice::kCpu) return available_memory_bytes();
  try {
    return static_cast<uint64_t>(cuda::device_info(0).free_bytes);
  } catch (const DeviceError&) {  // a plan for a device that is not here
    return 0;
  }
}

}  // namespace

Plan make_plan(const configs::RunConfig& config, const data::TrainingData& data) {
  const io::Checkpoint checkpoint(config.model_name_or_path);
  const auto& quantization = checkpoint.quantization();
  ModelDescription described{.config = checkpoint.config()};
  if (quantization) described.quantized = quantization->common_form();
  Plan plan{.shape = shape_of(config, described)};
  measure_batches(config, data, plan.shape);
  plan.memory = model::plan_memory(plan.shape);

  const auto linears = model::planned_linears(plan.shape);
  const int64_t base = model::base_parameters(plan.shape.config);
  const int64_t trainable = model::trained_parameters(plan.shape, linears);
  const data::Batches batches(data.train, config.training.batching, config.training.seed);
  plan.trainable_summary = lora::trainable_summary(trainable, base);
  plan.facts = {{"model", config.model_name_or_path},
                {"base_parameters", base},
                {"load_in_4bit", config.quantization.load_in_4bit && !quantization},
                {"frozen_bytes", plan.memory.bytes(model::MemoryKind::kBase) +
                                     plan.memory.bytes(model::MemoryKind::kEmbedding)},
                {"trainable_parameters", trainable},
                {"adapted_linears", adapted_linears(linears)},
                {"train_examples", data.train.size()},
                {"train_tokens", data.train.tokens()},
                {"train_target_tokens", data.train.target_tokens()},
                {"eval_examples", data.eval ? data.eval->size() : 0},
                {"steps_per_epoch", batches.steps_per_epoch()},
                {"total_steps", trainer::total_steps(config.training, batches.steps_per_epoch())},
                {"micro_batch_tokens", plan.shape.train.tokens},
                {"estimated_bytes", plan.memory.total()},
                {"available_bytes", available_bytes(plan.shape)},
                {"output_dir", config.training.output_dir}};
  if (quantization) plan.facts["quantization"] = io::describe(quantization->common_form());
  return plan;
}

std::string plan_text(const Plan& plan) {
  const Json& f = plan.facts;
  const auto number = [&f](const char* key) { return count_text(f[key].get<int64_t>()); };
  const std::string held = f.contains("quantization")
                               ? fmt::format(" ({})", f["quantization"].get<std::string>())
                           : f["load_in_4bit"].get<bool>() ? " in 4 bits"
                                                           : "";
  const auto available = f["available_bytes"].get<uint64_t>();
  return fmt::format(
      "model   {}: {} parameters, {} frozen{}\n"
      "lora    {} in {} linears\n"
      "data    {} examples, {} tokens, {} learnt; {} for evaluation\n"
      "steps   {} ({} an epoch), at most {} tokens in a micro-batch\n"
      "memory  about {} at the peak{}\n"
      "output  {}",
      f["model"].get<std::string>(), number("base_parameters"),
      bytes_text(f["frozen_bytes"].get<uint64_t>()), held, plan.trainable_summary,
      number("adapted_linears"), number("train_examples"), number("train_tokens"),
      number("train_target_tokens"), number("eval_examples"), number("total_steps"),
      number("steps_per_epoch"), number("micro_batch_tokens"),
      bytes_text(f["estimated_bytes"].get<uint64_t>()),
      available > 0 ? fmt::format(", {} available", bytes_text(available)) : "",
      f["output_dir"].get<std::string>());
}

void show_plan(const Plan& plan, RunLog& log) {
  std::istringstream lines(plan_text(plan));
  for (std::string line; std::getline(lines, line);) log.notice(line);
  const auto available = plan.facts["available_bytes"].get<uint64_t>();
  if (available == 0 || plan.facts["estimated_bytes"].get<uint64_t>() <= available) return;
  const std::string advice = model::advice_text(model::memory_savings(plan.shape));
  log.warn("the run may need more memory than there is" +
           (advice.empty() ? "" : "; what helps most: " + advice));
}

}  // namespace qlora::cli
