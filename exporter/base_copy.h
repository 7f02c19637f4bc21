#pragma once

#include <filesystem>
#include <string>

#include "core/run_log.h"
#include "data/example_builder.h"
#include "exporter/export.h"

namespace qlora::exporter {

// 16-bit copies of a model that a run on a grid trains over instead.
//   folder    appears complete or not at all
//   made      what to do where it is there: kReuse takes it as it is, if it was made of the same
//             weights, rows and options
//   throws    as export_model; ConfigError where what is to be reused was made otherwise;
//             Interrupted after a signal

enum class IfMade { kReplace, kReuse };

/// Weights and norms hold AWQ's channel scales for a grid: the copy computes what the model
/// computes, and loses less when it is rounded to that grid.
///   source    its model and compute type; an adapter is not looked at
///   rows      whose activations the scales are searched on, as options.calibration chooses
///   options   grid, calibration and AWQ's settings; nothing is rounded
void fold_awq(const ExportSource& source, const data::ExampleSet& rows,
              const ExportOptions& options, const std::filesystem::path& folder, IfMade made,
              RunLog& log);

/// Weights lie in the cells of an export's codes (exporter/start_codes.h).
///   source    its model and compute type, and the adapter that the run begins with; empty: none
///   codes     folder of the export
///   options   the grid
void move_base(const ExportSource& source, const std::string& codes, const ExportOptions& options,
               const std::filesystem::path& folder, IfMade made, RunLog& log);

}  // namespace qlora::exporter
