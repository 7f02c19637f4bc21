#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace qlora::exporter {

/// What a stage is, in the order in which an export passes them.
enum class StageKind { kBase16, kBaseNf4, kAdapter, kMerged, kQuantized };

/// One measured model: a line of the table and a bar of each chart.
struct StageResult {
  std::string name;  // "merged into the original weights", "awq, 4 bits, g64"
  StageKind kind = StageKind::kQuantized;
  std::optional<double> perplexity;           // held out
  std::optional<double> kl_divergence;        // nats a token, from the adapter model to this one
  std::optional<double> top1_agreement;       // share of positions with the adapter model's choice
  std::optional<uint64_t> bytes;              // of the weights (and all files, where written)
  std::optional<double> tokens_per_second;    // of the evaluation's forward passes here
  std::optional<uint64_t> peak_memory_bytes;  // of the process, while this stage was measured
  bool is_chosen = false;                     // what was written
  std::string note;
};

/// One quantized linear.
struct LayerResult {
  std::string module;
  int64_t bits = 0;
  int64_t group_size = 0;
  std::optional<double> mse;            // mean squared error of the weights
  std::optional<double> sqnr_db;        // 10 log10(mean w^2 / mse)
  std::optional<double> objective_rtn;  // squared error of the outputs, rounded to nearest
  std::optional<double> objective;      // the same, as written
  std::optional<double> damping;        // that the Hessian took
  std::optional<double> seconds;
  std::optional<double> adapter_over_step;  // rms of the adapter's change over the mean scale
  bool fell_back = false;                   // to rounding to nearest
  std::string note;
};

/// The limit that the result had to keep.
struct GateResult {
  double max_ratio = 0;  // perplexity over that of the adapter model
  double ratio = 0;
  bool passed = false;
  std::vector<std::string> advice;  // what helps, the cheapest first; where it did not pass
};

/// Everything that an export has measured: report.json and report.html hold it.
struct ExportReport {
  std::string title;        // "SmolLM2-135M-Instruct, awq 4 bits"
  std::string base_model;   // name, not path
  std::string adapter;      // name; empty where there was none
  std::string grid;         // describe() and the group size
  std::string protocol;     // what perplexity was measured on
  std::string calibration;  // rows, tokens, cut rows
  nlohmann::ordered_json settings = nlohmann::ordered_json::object();  // resolved options
  std::vector<StageResult> stages;
  std::vector<LayerResult> layers;
  std::vector<std::string> notices, warnings;
  std::optional<GateResult> gate;
  double seconds = 0;              // of the whole export
  uint64_t peak_memory_bytes = 0;  // of the process
};

/// The first stage of a kind; null where it was not measured.
const StageResult* find_stage(const ExportReport& report, StageKind kind);
/// The quantized (or merged) stage that was written; null where none is marked.
const StageResult* chosen_stage(const ExportReport& report);

/// Bytes of the 16-bit base over those of the stage, and the percent that are saved; nothing where
/// one of the two is not known.
std::optional<double> size_ratio(const ExportReport& report, const StageResult& stage);
std::optional<double> saved_percent(const ExportReport& report, const StageResult& stage);
/// Perplexity of the stage over that of the adapter model, else of the merged, else of the base.
std::optional<double> perplexity_ratio(const ExportReport& report, const StageResult& stage);

/// Numbers that are not finite become null.
nlohmann::ordered_json to_json(const ExportReport& report);
/// The stages as a markdown table, for model cards and the terminal.
std::string stages_markdown(const ExportReport& report);
/// One page without outside references, with bar charts as inline SVG, for light and dark themes.
std::string report_html(const ExportReport& report);

/// Writes report.json and report.html into a folder.
void write_report(const std::filesystem::path& folder, const ExportReport& report);

}  // namespace qlora::exporter
