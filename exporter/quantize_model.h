#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "exporter/block_quantizer.h"
#include "exporter/calibration_set.h"

namespace qlora::exporter {

/// What walking all blocks left in the work directory.
struct QuantizedBlocks {
  std::vector<std::filesystem::path> files;  // one a block, in order: safetensors as written
  std::vector<LinearReport> linears;
  double seconds = 0;          // of this process and, after an interruption, of those before it
  int64_t resumed_blocks = 0;  // found finished
};

/// True where a work directory holds blocks that an export would go on from.
bool has_finished_blocks(const std::filesystem::path& work_dir);

/// Quantizes block by block into work_dir, one file a block.
///   fingerprint  of everything that the result depends on (source, adapter, samples, options)
///   Resume    blocks that an interrupted run with the same fingerprint finished are kept, with the
///             activations behind them: the result equals the uninterrupted one. Another
///             fingerprint empties the directory
///   Log       per block: error of plain rounding and of the solver, damping, time, time left
///   calibration  nullptr where the grid needs none
///   throws    what the solvers throw; IoError; Interrupted
QuantizedBlocks quantize_blocks(const model::BlockLoader& loader, const MergedWeights& weights,
                                const BlockQuantizer& quantizer, const CalibrationSet* calibration,
                                const std::filesystem::path& work_dir,
                                const std::string& fingerprint, RunLog& log);

}  // namespace qlora::exporter
