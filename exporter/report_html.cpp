// report.html: one page, no script, no outside reference.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/progress.h"
#include "core/text.h"
#include "exporter/report.h"

namespace qlora::exporter {
namespace {

constexpr double kChartWidth = 860, kBarLeft = 260, kBarRight = 740, kBarStep = 30;

constexpr const char* kStyle = R"(
:root { --paper: #ffffff; --ink: #1c2024; --soft: #6b7280; --rule: #e3e6ea; --bar: #8fb2e8; --chosen: #2563c9; --bad: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8eaed; --soft: #9aa1ab; --rule: #2c3036; --bar: #3d5a8c; --chosen: #7aa7f0; --bad: #f0955c; }
}
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
p, li, .soft { color: var(--soft); } .warning, .failed { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.chosen td { font-weight: 600; }
svg { display: block; width: 100%; height: auto; margin: .4rem 0 1.4rem; }
svg text { font: 13px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .title { font-weight: 600; fill: var(--ink); } svg .bar { fill: var(--bar); } svg .chosen { fill: var(--chosen); }
)";

using Value = std::optional<double>;

std::string show(const Value& value, const char* format) {
  return value && std::isfinite(*value) ? fmt::format(fmt::runtime(format), *value) : "";
}

Value gigabytes(const std::optional<uint64_t>& bytes) {
  return bytes ? Value(static_cast<double>(*bytes) / 1e9) : std::nullopt;
}

struct Bar {
  std::string name, text;
  double value = 0;
  bool is_chosen = false;
};

/// Horizontal bars from 0, the value at the end of each.
std::string bar_chart(const std::string& title, const std::vector<Bar>& bars) {
  if (bars.empty()) return "";
  double most = 0;
  for (const Bar& bar : bars) most = std::max(most, bar.value);
  const double height = 40 + kBarStep * static_cast<double>(bars.size());
  std::string svg = fmt::format(
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n<text class=\"title\" x=\"0\" "
      "y=\"18\">{}</text>\n",
      kChartWidth, height, markup_text(title), markup_text(title));
  double y = 36;
  for (const Bar& bar : bars) {
    const double width = most > 0 ? (kBarRight - kBarLeft) * bar.value / most : 0;
    svg += fmt::format(
        "<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text><rect class=\"{}\" x=\"{}\" "
        "y=\"{:.1f}\" width=\"{:.1f}\" height=\"18\" rx=\"2\"/><text x=\"{:.1f}\" "
        "y=\"{:.1f}\">{}</text>\n",
        kBarLeft - 10, y + 13, markup_text(bar.name), bar.is_chosen ? "bar chosen" : "bar",
        kBarLeft, y, std::max(width, 1.0), kBarLeft + std::max(width, 1.0) + 8, y + 13,
        markup_text(bar.text));
    y += kBarStep;
  }
  return svg + "</svg>\n";
}

std::string stage_chart(const ExportReport& report, const std::string& title, const char* format,
                        const std::function<Value(const StageResult&)>& of) {
  std::vector<Bar> bars;
  for (const StageResult& s : report.stages) {
    const Value value = of(s);
    if (!value || !std::isfinite(*value) || *value < 0) continue;
    bars.push_back({s.name, show(value, format), *value, s.is_chosen});
  }
  return bar_chart(title, bars);
}

std::string charts(const ExportReport& report) {
  std::string html;
  html += stage_chart(report, "Perplexity, held out (less is better)", "{:.3f}",
                      [](const StageResult& s) { return s.perplexity; });
  html += stage_chart(report, "Size of the weights, GB (1e9 bytes)", "{:.4f} GB",
                      [](const StageResult& s) { return gigabytes(s.bytes); });
  html += stage_chart(report, "KL divergence to the adapter model, nats a token", "{:.5f}",
                      [](const StageResult& s) { return s.kl_divergence; });
  html += stage_chart(report, "Speed of evaluation here, tokens a second", "{:.1f}",
                      [](const StageResult& s) { return s.tokens_per_second; });
  return html;
}

std::string row(const std::vector<std::string>& cells, const char* cell, const char* style = "") {
  std::string html = *style ? fmt::format("<tr class=\"{}\">", style) : "<tr>";
  for (const std::string& text : cells) html += fmt::format("<{0}>{1}</{0}>", cell, text);
  return html + "</tr>\n";
}

std::string stage_table(const ExportReport& report) {
  std::string html = "<div class=\"scroll\"><table>\n";
  html += row({"model", "perplexity", "ratio", "KL", "top-1", "bytes", "smaller", "saved",
               "tokens/s", "peak memory"},
              "th");
  for (const StageResult& s : report.stages) {
    const Value agreement = s.top1_agreement ? Value(100 * *s.top1_agreement) : std::nullopt;
    const std::string name =
        markup_text(s.name) +
        (s.note.empty() ? "" : "<br><span class=\"soft\">" + markup_text(s.note) + "</span>");
    html += row({name, show(s.perplexity, "{:.4f}"), show(perplexity_ratio(report, s), "{:.4f}"),
                 show(s.kl_divergence, "{:.5f}"), show(agreement, "{:.2f}%"),
                 s.bytes ? count_text(static_cast<int64_t>(*s.bytes)) : "",
                 show(size_ratio(report, s), "{:.2f}x"), show(saved_percent(report, s), "{:.1f}%"),
                 show(s.tokens_per_second, "{:.1f}"),
                 s.peak_memory_bytes ? bytes_text(*s.peak_memory_bytes) : ""},
                "td", s.is_chosen ? "chosen" : "");
  }
  return html + "</table></div>\n";
}

std::string layer_table(const ExportReport& report) {
  if (report.layers.empty()) return "";
  std::string html =
      "<h2>Layers</h2>\n<p>Objective: squared error of a layer's outputs on the "
      "calibration rows, rounded to nearest and as written. Adapter: rms of its "
      "change over the mean step of the grid; far below 1 it may be rounded away."
      "</p>\n<div class=\"scroll\"><table>\n";
  html += row({"module", "bits", "group", "MSE", "SQNR dB", "objective (nearest)", "objective",
               "damping", "adapter", "seconds", ""},
              "th");
  for (const LayerResult& l : report.layers) {
    std::string note = markup_text(l.note);
    if (l.fell_back) note = "rounded to nearest" + (note.empty() ? "" : "; " + note);
    html += row({markup_text(l.module), std::to_string(l.bits), std::to_string(l.group_size),
                 show(l.mse, "{:.3e}"), show(l.sqnr_db, "{:.2f}"), show(l.objective_rtn, "{:.4g}"),
                 show(l.objective, "{:.4g}"), show(l.damping, "{:.3g}"),
                 show(l.adapter_over_step, "{:.3f}"), show(l.seconds, "{:.2f}"), note},
                "td", l.fell_back ? "warning" : "");
  }
  return html + "</table></div>\n";
}

std::string list(const char* title, const std::vector<std::string>& lines, const char* style) {
  if (lines.empty()) return "";
  std::string html = fmt::format("<h2>{}</h2>\n<ul>\n", title);
  for (const std::string& line : lines) {
    html += fmt::format("<li class=\"{}\">{}</li>\n", style, markup_text(line));
  }
  return html + "</ul>\n";
}

std::string gate_text(const ExportReport& report) {
  if (!report.gate) return "";
  const GateResult& gate = *report.gate;
  std::string html = fmt::format(
      "<p class=\"{}\">Gate: perplexity ratio {:.4f}, allowed at most {:.4f}: {}.</p>\n",
      gate.passed ? "soft" : "failed", gate.ratio, gate.max_ratio,
      gate.passed ? "passed" : "not passed");
  return html + (gate.passed ? "" : list("What helps, the cheapest first", gate.advice, "soft"));
}

}  // namespace

std::string report_html(const ExportReport& report) {
  std::string html = fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, "
      "initial-scale=1\"><title>{0}</title><style>{1}</style></head>\n"
      "<body>\n<h1>{0}</h1>\n",
      markup_text(report.title), kStyle);
  const std::pair<const char*, const std::string&> kFacts[] = {{"Base", report.base_model},
                                                               {"Adapter", report.adapter},
                                                               {"Grid", report.grid},
                                                               {"Calibration", report.calibration},
                                                               {"Measured on", report.protocol}};
  html += "<p>";
  for (const auto& [name, text] : kFacts) {
    if (!text.empty()) html += fmt::format("{}: {}<br>\n", name, markup_text(text));
  }
  html += fmt::format("Time: {}; peak memory {}</p>\n", duration_text(report.seconds),
                      bytes_text(report.peak_memory_bytes));
  html += gate_text(report);
  html += list("Warnings", report.warnings, "warning");
  html += "<h2>Loss budget</h2>\n" + stage_table(report) + charts(report);
  html += layer_table(report);
  html += list("Notices", report.notices, "soft");
  html += fmt::format("<h2>Settings</h2>\n<pre class=\"soft\">{}</pre>\n</body>\n</html>\n", [&] {
    std::string text;  // one line a setting: line breaks are kept
    for (const auto& [key, value] : report.settings.items()) {
      text += markup_text(key + ": " + value.dump()) + "\n";
    }
    return text;
  }());
  return html;
}

}  // namespace qlora::exporter
