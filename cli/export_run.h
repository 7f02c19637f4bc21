#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/export_data.h"
#include "configs/run_config.h"
#include "core/run_log.h"
#include "exporter/export.h"

namespace qlora::cli {

inline constexpr int kExitGate = 3;  // quantizing cost more than was allowed

/// What `qlora export` and `qlora merge` are asked for.
struct ExportRequest {
  std::string run;         // run directory; its config.resolved.json is the configuration
  std::string config;      // a configuration file, read over it
  std::string model_path;  // beats theirs
  std::string adapter;     // beats the run's own
  ExportTokens tokens;
  std::string compute_dtype;
  bool is_merge = false;  // the configuration's way to quantize does not count
  int64_t threads = 0;
  std::vector<std::string> overrides;
};

/// The request as the exporter takes it.
struct PreparedExport {
  configs::RunConfig config;
  exporter::ExportSource source;
  ExportTokens tokens;
};

/// Finds the model, the adapter and the data. Sets the number of threads.
///   throws    ConfigError where no model is named, or what is named does not fit together
PreparedExport prepare_export(const ExportRequest& request, RunLog& log);

/// The same for a run that has just ended.
PreparedExport prepare_export_of_run(const configs::RunConfig& config);

/// Exports, prints the table (or one JSON object).
///   training  facts of the run that ends with this export; the one JSON object is then theirs,
///             with those of the export under "export"
///   returns   0, kExitGate, or 129 / 130 / 143 after a signal
int run_export(const PreparedExport& prepared, bool json, RunLog& log,
               const nlohmann::ordered_json& training = nullptr);

/// --dry-run: what would be written.
int show_export_plan(const PreparedExport& prepared, bool json, RunLog& log);

}  // namespace qlora::cli
