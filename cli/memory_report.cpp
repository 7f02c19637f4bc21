#include "cli/memory_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/memory.h"
#include "core/progress.h"

namespace qlora::cli {
namespace {

std::string parts_text(const model::MemoryPlan& memory) {
  std::string text;
  for (const model::MemoryPart& part : memory.parts) {
    if (part.bytes == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", model::memory_kind_name(part.kind),
                        bytes_text(static_cast<uint64_t>(part.bytes)));
  }
  return text;
}

}  // namespace

void StageLog::event(const std::string& kind, const nlohmann::json& record) {
  log_.event(kind, record);
  const bool counts = (kind == "start" || kind == "step") && record.contains("step");
  if (counts) {
    stage_ = fmt::format("the activations of step {}", record.at("step").get<int64_t>() + 1);
  } else if (kind == "finish") {
    stage_ = "the result";
  }
}

std::string out_of_memory_text(const OutOfMemory& problem, const std::string& stage) {
  std::string text = fmt::format("[memory] {} ran out of memory while allocating {}",
                                 problem.is_device ? "the GPU" : "the machine", stage);
  if (problem.wanted_bytes)
    text += fmt::format(", {} more asked for", bytes_text(*problem.wanted_bytes));
  if (!problem.is_device)
    text += fmt::format(", {} available", bytes_text(available_memory_bytes()));
  return text;
}

std::string out_of_memory_text(const OutOfMemory& problem, const std::string& stage,
                               const Plan& plan) {
  std::string text =
      fmt::format("{}; the plan is {} at the peak ({})", out_of_memory_text(problem, stage),
                  bytes_text(static_cast<uint64_t>(plan.memory.total())), parts_text(plan.memory));
  const std::string advice = model::advice_text(model::memory_savings(plan.shape));
  return advice.empty() ? text + "; no setting takes less, use a smaller model"
                        : text + "; what helps most: " + advice;
}

}  // namespace qlora::cli
