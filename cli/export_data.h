#pragma once

#include <cstdint>
#include <string>

#include "configs/run_config.h"
#include "core/run_log.h"
#include "exporter/export.h"

namespace qlora::cli {

/// Token tensors named on the command line instead of texts: FILE:TENSOR, empty for none.
struct ExportTokens {
  std::string calibration;
  std::string evaluation;
};

/// Rows that an export calibrates and measures on; files that it has no use for are not opened.
///   Calibration  --tokens, else export.dataset_name, else the training data of the configuration
///   Held out     --eval-tokens, else export.eval_dataset_name, else the evaluation data of the
///                configuration, else a tenth of the calibration file (128 rows at the most), which
///                calibration then does not see
///   throws       what the readers throw
exporter::ExportData load_export_data(const configs::RunConfig& config, const ExportTokens& tokens,
                                      RunLog& log);

}  // namespace qlora::cli
