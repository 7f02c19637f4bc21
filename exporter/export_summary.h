#pragma once

#include <string>
#include <vector>

#include "core/run_log.h"
#include "exporter/block_quantizer.h"
#include "exporter/export_options.h"
#include "exporter/report.h"

namespace qlora::exporter {

/// An adapter whose change is smaller than this part of a grid's step is mostly rounded away.
inline constexpr double kLeastAdapterChange = 0.1;

/// "adapter on NF4: perplexity 10.059, KL 0.0123, top-1 97.1%, 93 MB"
std::string stage_line(const StageResult& stage);

/// The solvers' reports as the report shows them.
std::vector<LayerResult> layer_results(const std::vector<LinearReport>& linears);

/// Warns where rounding will swallow an adapter ("near-no-op merge"): the change of a weight
/// against the step of its grid. One line for all such matrices, with the worst named.
void report_lost_changes(const std::vector<LinearReport>& linears,
                         std::vector<std::string>& warnings, RunLog& log);

/// What lowers the loss, the cheapest first, as far as the export has not done it yet.
std::vector<std::string> gate_advice(const Preflight& preflight, const ExportOptions& options);

}  // namespace qlora::exporter
