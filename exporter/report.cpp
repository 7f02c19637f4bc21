#include "exporter/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/text.h"
#include "io/atomic_file.h"

namespace qlora::exporter {
namespace {

using Json = nlohmann::ordered_json;

const char* kind_name(StageKind kind) {
  switch (kind) {
    case StageKind::kBase16:
      return "base16";
    case StageKind::kBaseNf4:
      return "base_nf4";
    case StageKind::kAdapter:
      return "adapter";
    case StageKind::kMerged:
      return "merged";
    case StageKind::kQuantized:
      return "quantized";
  }
  return "?";
}

template <class T>
Json number(const std::optional<T>& value) {
  if (!value) return nullptr;
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(*value)) return nullptr;
  }
  return *value;
}

Json stage_json(const ExportReport& report, const StageResult& s) {
  return {{"name", s.name},
          {"kind", kind_name(s.kind)},
          {"chosen", s.is_chosen},
          {"perplexity", number(s.perplexity)},
          {"perplexity_ratio", number(perplexity_ratio(report, s))},
          {"kl_divergence", number(s.kl_divergence)},
          {"top1_agreement", number(s.top1_agreement)},
          {"bytes", number(s.bytes)},
          {"size_ratio", number(size_ratio(report, s))},
          {"saved_percent", number(saved_percent(report, s))},
          {"tokens_per_second", number(s.tokens_per_second)},
          {"peak_memory_bytes", number(s.peak_memory_bytes)},
          {"note", s.note}};
}

Json layer_json(const LayerResult& l) {
  return {{"module", l.module},
          {"bits", l.bits},
          {"group_size", l.group_size},
          {"mse", number(l.mse)},
          {"sqnr_db", number(l.sqnr_db)},
          {"objective_rtn", number(l.objective_rtn)},
          {"objective", number(l.objective)},
          {"damping", number(l.damping)},
          {"seconds", number(l.seconds)},
          {"adapter_over_step", number(l.adapter_over_step)},
          {"fell_back", l.fell_back},
          {"note", l.note}};
}

std::string cell(const std::optional<double>& value, const char* format) {
  return value && std::isfinite(*value) ? fmt::format(fmt::runtime(format), *value) : "";
}

}  // namespace

const StageResult* find_stage(const ExportReport& report, StageKind kind) {
  const auto found = std::find_if(report.stages.begin(), report.stages.end(),
                                  [&](const StageResult& s) { return s.kind == kind; });
  return found == report.stages.end() ? nullptr : &*found;
}

const StageResult* chosen_stage(const ExportReport& report) {
  const auto found = std::find_if(report.stages.begin(), report.stages.end(),
                                  [](const StageResult& s) { return s.is_chosen; });
  return found == report.stages.end() ? nullptr : &*found;
}

std::optional<double> size_ratio(const ExportReport& report, const StageResult& stage) {
  const StageResult* base = find_stage(report, StageKind::kBase16);
  if (base == nullptr || !base->bytes || !stage.bytes || *stage.bytes == 0) return std::nullopt;
  return static_cast<double>(*base->bytes) / static_cast<double>(*stage.bytes);
}

std::optional<double> saved_percent(const ExportReport& report, const StageResult& stage) {
  const auto ratio = size_ratio(report, stage);
  if (!ratio) return std::nullopt;
  return 100 * (1 - 1 / *ratio);
}

std::optional<double> perplexity_ratio(const ExportReport& report, const StageResult& stage) {
  for (const StageKind kind : {StageKind::kAdapter, StageKind::kMerged, StageKind::kBase16}) {
    const StageResult* reference = find_stage(report, kind);
    if (reference == nullptr || !reference->perplexity || !stage.perplexity) continue;
    return *stage.perplexity / *reference->perplexity;
  }
  return std::nullopt;
}

Json to_json(const ExportReport& report) {
  Json stages = Json::array(), layers = Json::array();
  for (const StageResult& s : report.stages) stages.push_back(stage_json(report, s));
  for (const LayerResult& l : report.layers) layers.push_back(layer_json(l));
  Json gate = nullptr;
  if (report.gate) {
    gate = {{"max_perplexity_ratio", report.gate->max_ratio},
            {"perplexity_ratio", number(std::optional(report.gate->ratio))},
            {"passed", report.gate->passed},
            {"advice", report.gate->advice}};
  }
  return {{"title", report.title},
          {"base_model", report.base_model},
          {"adapter", report.adapter},
          {"grid", report.grid},
          {"protocol", report.protocol},
          {"calibration", report.calibration},
          {"stages", stages},
          {"gate", gate},
          {"layers", layers},
          {"notices", report.notices},
          {"warnings", report.warnings},
          {"seconds", report.seconds},
          {"peak_memory_bytes", report.peak_memory_bytes},
          {"settings", report.settings}};
}

std::string stages_markdown(const ExportReport& report) {
  std::string text =
      "| model | perplexity | ratio | KL (nats) | top-1 | GB | smaller | saved |\n"
      "|---|---|---|---|---|---|---|---|\n";
  for (const StageResult& s : report.stages) {
    std::optional<double> gigabytes, agreement;
    if (s.bytes) gigabytes = static_cast<double>(*s.bytes) / 1e9;
    if (s.top1_agreement) agreement = 100 * *s.top1_agreement;
    text += fmt::format("| {}{} | {} | {} | {} | {} | {} | {} | {} |\n", table_text(s.name),
                        s.is_chosen ? " (this one)" : "", cell(s.perplexity, "{:.3f}"),
                        cell(perplexity_ratio(report, s), "{:.4f}"),
                        cell(s.kl_divergence, "{:.5f}"), cell(agreement, "{:.2f}%"),
                        cell(gigabytes, "{:.4f}"), cell(size_ratio(report, s), "{:.2f}x"),
                        cell(saved_percent(report, s), "{:.1f}%"));
  }
  return text;
}

void write_report(const std::filesystem::path& folder, const ExportReport& report) {
  io::write_file_atomic(folder / "report.json", to_json(report).dump(2) + "\n");
  io::write_file_atomic(folder / "report.html", report_html(report));
}

}  // namespace qlora::exporter
