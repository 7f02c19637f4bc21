#pragma once

#include <filesystem>
#include <string>

#include "core/run_log.h"
#include "data/example_builder.h"
#include "exporter/export.h"

namespace qlora::exporter {

// 16-bit copies of a model that a run on a grid trains over instead.
//   folder    appears complete or not at all; replaced where it is there
//   throws    as export_model; Interrupted after a signal

/// Weights and norms hold AWQ's channel scales for a grid: the copy computes what the model
/// computes, and loses less when it is rounded to that grid.
///   source    its model and compute type; an adapter is not looked at
///   rows      whose activations the scales are searched on, as options.calibration chooses
///   options   grid, calibration and AWQ's settings; nothing is rounded
void fold_awq(const ExportSource& source, const data::ExampleSet& rows,
              const ExportOptions& options, const std::filesystem::path& folder, RunLog& log);

/// Weights lie in the cells of an export's codes (exporter/start_codes.h).
///   source    its model and compute type, and the adapter that the run begins with; empty: none
///   codes     folder of the export
///   options   the grid
void move_base(const ExportSource& source, const std::string& codes, const ExportOptions& options,
               const std::filesystem::path& folder, RunLog& log);

}  // namespace qlora::exporter
