#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/progress.h"
#include "model/memory_plan.h"

namespace qlora::model {
namespace {

void halve_rows(PlanShape& shape) {
  MicroBatch& batch = shape.train;
  const int64_t rows = (batch.rows + 1) / 2;
  const auto share = [&](int64_t tokens) { return (tokens * rows + batch.rows - 1) / batch.rows; };
  batch.tokens = share(batch.tokens);
  batch.target_tokens = share(batch.target_tokens);
  batch.rows = rows;
}

void halve_lengths(PlanShape& shape) {
  for (MicroBatch* batch : {&shape.train, &shape.evaluation}) {
    batch->tokens = (batch->tokens + 1) / 2;
    batch->target_tokens = (batch->target_tokens + 1) / 2;
    batch->longest_row = (batch->longest_row + 1) / 2;
  }
}

/// All settings that can be lowered, with the shape that results.
std::vector<std::pair<MemorySaving, PlanShape>> candidates(const PlanShape& shape) {
  std::vector<std::pair<MemorySaving, PlanShape>> all;
  const auto add = [&](bool applies, std::string setting, const char* cost, const auto& change) {
    if (!applies) return;
    all.push_back({{.setting = std::move(setting), .cost = cost}, shape});
    change(all.back().second);
  };
  add(!shape.gradient_checkpointing, "gradient_checkpointing=true", "steps take a third longer",
      [](PlanShape& s) { s.gradient_checkpointing = true; });
  const bool is_kept_there = shape.gradient_checkpointing && shape.device == PlanDevice::kCuda;
  add(is_kept_there && !shape.activation_offloading, "activation_offloading=true",
      "the copies to the host take time where the link is slow",
      [](PlanShape& s) { s.activation_offloading = true; });
  add(shape.train.rows > 1,
      fmt::format("per_device_train_batch_size={}", (shape.train.rows + 1) / 2),
      "with gradient_accumulation_steps doubled the same steps, a little slower", halve_rows);
  add(shape.train.longest_row > 64, fmt::format("data.max_length={}", shape.train.longest_row / 2),
      "longer examples are cut", halve_lengths);
  add(!shape.load_in_4bit && !shape.quantized, "quantization.load_in_4bit=true",
      "the base is rounded to 4 bits", [](PlanShape& s) { s.load_in_4bit = true; });
  add(shape.load_in_4bit && !shape.quantized && !shape.four_bit.double_quant,
      "quantization.bnb_4bit_use_double_quant=true", "almost nothing",
      [](PlanShape& s) { s.four_bit.double_quant = true; });
  add(shape.states == OptimizerStates::k32bit, "optim=paged_adamw_8bit", "almost nothing",
      [](PlanShape& s) { s.states = OptimizerStates::k8bit; });
  add(shape.compute_bytes == 4, "compute_dtype=bf16", "products are rounded to BF16",
      [](PlanShape& s) { s.compute_bytes = 2; });
  add(shape.lora.enabled && shape.lora.r > 1, fmt::format("lora.r={}", (shape.lora.r + 1) / 2),
      "smaller adapters", [](PlanShape& s) { s.lora.r = (s.lora.r + 1) / 2; });
  return all;
}

}  // namespace

std::vector<MemorySaving> memory_savings(const PlanShape& shape) {
  const int64_t total = plan_memory(shape).total();
  std::vector<MemorySaving> savings;
  for (auto& [saving, changed] : candidates(shape)) {
    saving.saved_bytes = total - plan_memory(changed).total();
    if (saving.saved_bytes > 0) savings.push_back(std::move(saving));
  }
  std::stable_sort(savings.begin(), savings.end(),
                   [](const auto& a, const auto& b) { return a.saved_bytes > b.saved_bytes; });
  return savings;
}

std::string advice_text(const std::vector<MemorySaving>& savings, size_t count) {
  std::string text;
  for (size_t i = 0; i < std::min(count, savings.size()); ++i) {
    text += fmt::format("{}{} (-{})", i == 0 ? "" : ", ", savings[i].setting,
                        bytes_text(static_cast<uint64_t>(savings[i].saved_bytes)));
  }
  return text;
}

}  // namespace qlora::model
