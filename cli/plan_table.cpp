#include "cli/plan_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "cli/output.h"
#include "core/progress.h"
#include "core/text.h"

namespace qlora::cli {
namespace {

constexpr int64_t kBarColumns = 24;

std::string bytes(int64_t count) {
  return bytes_text(static_cast<uint64_t>(std::max<int64_t>(0, count)));
}

std::string bar(int64_t part, int64_t whole) {
  const int64_t full = whole > 0 ? (part * kBarColumns + whole / 2) / whole : 0;
  std::string text;
  for (int64_t i = 0; i < kBarColumns; ++i) text += i < full ? "█" : " ";
  return text;
}

const char* device_name(model::PlanDevice device) {
  return device == model::PlanDevice::kCpu ? "cpu" : "cuda";
}

std::string fit_text(int64_t total, int64_t device) {
  if (total <= device) {
    return fmt::format("device       {:>8}  fits, {} are left\n", bytes(device),
                       bytes(device - total));
  }
  return fmt::format("device       {:>8}  does not fit, {} are missing\n", bytes(device),
                     bytes(total - device));
}

std::string disk_text(const model::DiskPlan& disk) {
  std::string text = "\ndisk\n";
  const auto line = [&](const char* name, int64_t size, const std::string& what) {
    if (size > 0) text += fmt::format("  {:<11}{:>8}  {}\n", name, bytes(size), what);
  };
  line("cache", disk.cache, "the quantized base, for the next start");
  const std::string most = disk.most_checkpoints ? fmt::format("each, at most {} at a time",
                                                               count_text(*disk.most_checkpoints))
                                                 : "each; save_total_limit bounds their number";
  line("checkpoint", disk.checkpoint, most);
  line("adapter", disk.adapter, "the result");
  line("export", disk.exported, "the quantized model");
  return text + fmt::format("  {:<11}{:>8}\n", "total", bytes(disk.total()));
}

std::string savings_text(const std::vector<model::MemorySaving>& savings) {
  if (savings.empty()) return "";
  std::string text = "\nwhat takes less, the most effective first\n";
  for (const model::MemorySaving& saving : savings) {
    text +=
        fmt::format("  {:<40}-{:<8}  {}\n", saving.setting, bytes(saving.saved_bytes), saving.cost);
  }
  return text;
}

Json savings_json(const std::vector<model::MemorySaving>& savings) {
  Json list = Json::array();
  for (const model::MemorySaving& saving : savings) {
    list.push_back(
        {{"setting", saving.setting}, {"saved_bytes", saving.saved_bytes}, {"cost", saving.cost}});
  }
  return list;
}

Json optional_json(const std::optional<int64_t>& value) {
  return value ? Json(*value) : Json();
}

}  // namespace

Json run_plan_json(const RunPlan& plan) {
  const model::MemoryPlan memory = model::plan_memory(plan.shape);
  const auto linears = model::planned_linears(plan.shape);
  Json parts = Json::object();
  for (const model::MemoryPart& part : memory.parts) {
    parts[std::string(model::memory_kind_name(part.kind)) + "_bytes"] = part.bytes;
  }
  const model::MicroBatch& batch = plan.shape.train;
  return {{"model", plan.model},
          {"device", device_name(plan.shape.device)},
          {"base_parameters", model::base_parameters(plan.shape.config)},
          {"trainable_parameters", model::trained_parameters(plan.shape, linears)},
          {"micro_batch",
           {{"from_data", plan.has_data},
            {"rows", batch.rows},
            {"tokens", batch.tokens},
            {"longest_row", batch.longest_row},
            {"target_tokens", batch.target_tokens}}},
          {"memory", parts},
          {"total_bytes", memory.total()},
          {"peak", model::peak_phase_text(memory.peak)},
          {"device_bytes", optional_json(plan.device_bytes)},
          {"fits", plan.device_bytes ? Json(memory.total() <= *plan.device_bytes) : Json()},
          {"savings", savings_json(model::memory_savings(plan.shape))},
          {"disk",
           {{"cache_bytes", plan.disk.cache},
            {"checkpoint_bytes", plan.disk.checkpoint},
            {"most_checkpoints", optional_json(plan.disk.most_checkpoints)},
            {"adapter_bytes", plan.disk.adapter},
            {"export_bytes", plan.disk.exported},
            {"total_bytes", plan.disk.total()}}}};
}

std::string run_plan_text(const RunPlan& plan) {
  const model::MemoryPlan memory = model::plan_memory(plan.shape);
  const int64_t total = memory.total();
  std::string text = fmt::format(
      "{}: {} parameters, on {}; {}\n\n", terminal_safe(plan.model, LineBreaks::kReplace),
      count_text(model::base_parameters(plan.shape.config)), device_name(plan.shape.device),
      plan.has_data ? "micro-batches as the data make them"
                    : "no data: every row is taken to be max_length long");
  for (const model::MemoryPart& part : memory.parts) {
    text += fmt::format("{:<13}{:>8}  {}  {}\n", model::memory_kind_name(part.kind),
                        bytes(part.bytes), bar(part.bytes, total), part.formula);
  }
  text +=
      fmt::format("{:<13}{:>8}  {}\n", "total", bytes(total), model::peak_phase_text(memory.peak));
  if (plan.device_bytes) text += fit_text(total, *plan.device_bytes);
  return text + savings_text(model::memory_savings(plan.shape)) + disk_text(plan.disk);
}

Json serving_plan_json(const ServingPlan& plan) {
  Json schemes = Json::array();
  for (const model::SchemeMemory& memory : plan.schemes) {
    schemes.push_back(
        {{"scheme", model::scheme_name(memory.scheme)},
         {"bits", model::scheme_bits(memory.scheme)},
         {"formula_bytes", memory.formula},
         {"weights_bytes", memory.weights},
         {"kv_cache_bytes", memory.kv_cache},
         {"overhead_bytes", memory.overhead},
         {"total_bytes", memory.total()},
         {"fits", plan.device_bytes ? Json(memory.total() <= *plan.device_bytes) : Json()}});
  }
  Json json = {{"model", plan.model},
               {"context", plan.shape.context_tokens},
               {"batch", plan.shape.batch},
               {"kv_bits", plan.shape.kv_bits},
               {"device_bytes", optional_json(plan.device_bytes)},
               {"schemes", schemes}};
  if (plan.recommendation) {
    const model::Recommendation& r = *plan.recommendation;
    json["recommendation"] = {{"name", r.name},
                              {"scheme", r.scheme ? Json(model::scheme_name(*r.scheme)) : Json()},
                              {"reason", r.reason},
                              {"export_options", r.command}};
  }
  return json;
}

std::string serving_plan_text(const ServingPlan& plan) {
  std::string text = fmt::format(
      "{}, context of {} tokens, batch of {}, keys and values in {} bits\n\n",
      terminal_safe(plan.model, LineBreaks::kReplace), count_text(plan.shape.context_tokens),
      count_text(plan.shape.batch), plan.shape.kv_bits);
  text += fmt::format("{:<8}{:>10}{:>10}{:>10}{:>10}\n", "", "weights", "kv cache", "overhead",
                      "total");
  int64_t largest = 1;
  for (const model::SchemeMemory& memory : plan.schemes) {
    largest = std::max(largest, memory.total());
  }
  for (const model::SchemeMemory& memory : plan.schemes) {
    const char* fit = !plan.device_bytes                     ? ""
                      : memory.total() <= *plan.device_bytes ? "fits"
                                                             : "too large";
    text +=
        fmt::format("{:<8}{:>10}{:>10}{:>10}{:>10}  {}  {}\n", model::scheme_name(memory.scheme),
                    bytes(memory.weights), bytes(memory.kv_cache), bytes(memory.overhead),
                    bytes(memory.total()), bar(memory.total(), largest), fit);
  }
  if (!plan.recommendation) return text;
  const model::Recommendation& r = *plan.recommendation;
  text += fmt::format("\ndevice of {}: {}\n  {}\n", bytes(*plan.device_bytes), r.name, r.reason);
  if (!r.command.empty()) text += fmt::format("  qlora export {} …\n", r.command);
  return text;
}

}  // namespace qlora::cli
