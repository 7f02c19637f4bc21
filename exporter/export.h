#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "core/token_batch.h"
#include "data/example_builder.h"
#include "exporter/export_options.h"
#include "exporter/preflight.h"
#include "exporter/qat_options.h"
#include "exporter/report.h"
#include "model/model_options.h"
#include "quant/nf4_options.h"

namespace qlora::exporter {

/// What is exported.
struct ExportSource {
  std::string model_path;      // HF folder or GGUF file: the base
  std::string adapter;         // PEFT folder; empty: none
  std::string training_data;   // of the adapter, for the card; empty: unknown
  QatOptions qat;              // of its run; off: it was not trained on a grid
  quant::Nf4Options four_bit;  // how the base was held while the adapter was trained
  model::ComputeDtype compute_dtype = model::ComputeDtype::kAuto;
};

/// Tokens that the export looks at.
struct ExportData {
  std::optional<data::ExampleSet> calibration;
  std::vector<TokenBatch> evaluation;  // held-out sequences with targets; empty: none
  std::string protocol;                // what they are, for the report
};

struct ExportResult {
  std::filesystem::path output_dir;             // empty: nothing was published
  std::filesystem::path model_path;             // what a loader is given
  MergeBase merge_base = MergeBase::kOriginal;  // that was taken
  ExportReport report;                          // as report.json
  bool gate_failed = false;  // the loss is above max_perplexity_ratio: report.gate says more
  bool interrupted = false;  // by a signal; the same command goes on
};

/// merge → calibrate → quantize → write → reload and check → evaluate → report.
///   Output    options.output_dir appears complete or not at all; until then everything lies in the
///             work directory, from which an interrupted export goes on
///   Errors    what the system refuses (a full disk) leaves the finished blocks in the work
///   directory;
///             after any other error nothing is left
///   Gate      where the quantized model's perplexity over the adapter model's is above
///             options.evaluation.max_perplexity_ratio nothing is published, unless options.keep
///   throws    ConfigError, ShapeError, ValueError, FormatError, IoError before anything is written
///             where the request cannot be met, and for damaged weights or activations
ExportResult export_model(const ExportSource& source, const ExportData& data,
                          const ExportOptions& options, RunLog& log);

/// The checks that need no data: what would be written, and whether it may be.
Preflight check_export(const ExportSource& source, const ExportOptions& options, RunLog& log);

}  // namespace qlora::exporter
