#include "exporter/export_summary.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/progress.h"

namespace qlora::exporter {

std::string stage_line(const StageResult& s) {
  std::string line = s.name + ":";
  if (s.perplexity) line += fmt::format(" perplexity {:.4f}", *s.perplexity);
  if (s.kl_divergence) line += fmt::format(", KL {:.5f}", *s.kl_divergence);
  if (s.top1_agreement) line += fmt::format(", top-1 {:.2f}%", 100 * *s.top1_agreement);
  if (s.bytes) line += ", " + bytes_text(*s.bytes);
  return line;
}

std::vector<LayerResult> layer_results(const std::vector<LinearReport>& linears) {
  std::vector<LayerResult> layers;
  for (const LinearReport& linear : linears) {
    LayerResult layer{.module = linear.module,
                      .bits = linear.bits,
                      .group_size = linear.group_size,
                      .mse = linear.mse,
                      .seconds = linear.seconds,
                      .fell_back = !linear.fallback.empty(),
                      .note = linear.fallback};
    if (linear.mse > 0) layer.sqnr_db = linear.sqnr_db;
    if (linear.objective_rtn > 0) {
      layer.objective_rtn = linear.objective_rtn;
      layer.objective = linear.objective;
    }
    if (linear.damp_percent > 0) layer.damping = linear.damp_percent;
    if (linear.adapter_change > 0) layer.adapter_over_step = linear.adapter_change;
    layers.push_back(std::move(layer));
  }
  return layers;
}

void report_lost_changes(const std::vector<LinearReport>& linears,
                         std::vector<std::string>& warnings, RunLog& log) {
  int64_t lost = 0, changed = 0;
  const LinearReport* worst = nullptr;
  for (const LinearReport& linear : linears) {
    if (linear.adapter_change <= 0) continue;
    ++changed;
    if (linear.adapter_change >= kLeastAdapterChange) continue;
    ++lost;
    if (worst == nullptr || linear.adapter_change < worst->adapter_change) worst = &linear;
  }
  if (lost == 0) return;
  warnings.push_back(fmt::format(
      "near-no-op merge: in {} of {} matrices the adapter's change is below {} of a rounding step "
      "(least in {}: {:.3f}); much of it will not survive. More bits, smaller groups or "
      "quantization-aware training keep it",
      lost, changed, kLeastAdapterChange, worst->module, worst->adapter_change));
  log.warn(warnings.back());
}

std::vector<std::string> gate_advice(const Preflight& preflight, const ExportOptions& options) {
  const ResolvedGrid& grid = preflight.grid;
  std::vector<std::string> advice;
  const bool is_gptq = grid.type == QuantizationType::kGptq;
  if (grid.symmetric && grid.bits <= 4) advice.emplace_back("--symmetric false");
  if (is_gptq && !options.gptq.desc_act) advice.emplace_back("--set export.desc_act=true");
  if (grid.type == QuantizationType::kRtn) advice.emplace_back("--quantization-type gptq or awq");
  for (const int64_t size : {int64_t{64}, int64_t{32}}) {
    if (grid.group_rule == GroupRule::kChosen && preflight.group_size > size) {
      advice.push_back(fmt::format("--group-size {}", size));
    }
  }
  if (is_gptq || grid.type == QuantizationType::kAwq) {
    advice.push_back(fmt::format("--calibration-samples {}", 2 * options.calibration.samples));
  }
  if (grid.bits < 8) advice.emplace_back("--bits 8");
  advice.emplace_back("quantization-aware training");
  return advice;
}

}  // namespace qlora::exporter
