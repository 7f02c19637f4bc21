#pragma once

#include <filesystem>

#include "core/run_log.h"
#include "data/example_builder.h"
#include "exporter/export.h"

namespace qlora::exporter {

/// Writes a 16-bit copy of a model whose weights and norms hold AWQ's channel scales for a grid: it
/// computes what the model computes, and loses less when it is rounded to that grid.
///   source    its model and compute type; an adapter is not looked at
///   rows      whose activations the scales are searched on, as options.calibration chooses
///   options   grid, calibration and AWQ's settings; nothing is rounded
///   folder    appears complete or not at all; replaced where it is there
///   throws    as export_model; Interrupted after a signal
void fold_awq(const ExportSource& source, const data::ExampleSet& rows,
              const ExportOptions& options, const std::filesystem::path& folder, RunLog& log);

}  // namespace qlora::exporter
