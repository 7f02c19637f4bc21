#pragma once

#include <cstdint>
#include <vector>

#include "core/run_log.h"
#include "core/token_batch.h"
#include "data/example_builder.h"
#include "exporter/export_options.h"

namespace qlora::exporter {

/// Fewer tokens than these cannot tell one input from another.
inline constexpr int64_t kLeastCalibrationTokens = 16;
/// Tokens of one forward pass: large products, small against the weights.
inline constexpr int64_t kCalibrationBatchTokens = 4096;

/// Whole samples whose activations the solvers look at.
struct CalibrationSet {
  std::vector<TokenBatch> batches;  // samples grouped, each a segment; no targets
  int64_t available = 0;            // samples that there were
  int64_t samples = 0;
  int64_t tokens = 0;
  int64_t cut = 0;  // samples longer than max_seq_length
};

/// Chooses samples at random, the same for the same seed on every machine, in the order of the
/// file; cuts long ones and counts them.
///   warns     where there are fewer samples than asked for
///   throws    ValueError where there is no sample, fewer than 16 tokens in all, or a token outside
///             [0, vocab_size), with sample and position
CalibrationSet make_calibration_set(const data::ExampleSet& examples,
                                    const CalibrationOptions& options, int64_t vocab_size,
                                    RunLog& log);

}  // namespace qlora::exporter
