#pragma once

#include <filesystem>
#include <vector>

#include "core/run_log.h"
#include "exporter/block_quantizer.h"
#include "exporter/candidate.h"
#include "exporter/merged_weights.h"

namespace qlora::exporter {

/// Writes folder/NAME-TYPE.gguf from the merged weights, a matrix at a time.
///   returns   the file's name
std::filesystem::path write_gguf_candidate(const CandidateInput& input,
                                           const MergedWeights& weights,
                                           const std::filesystem::path& folder, RunLog& log);

/// Reads every matrix of the file back and holds it against the merged weight.
///   throws    FormatError where one is farther from its weight than zeros are: it is another
///   one's,
///             or its numbers lie in another order (a bug, never data); Interrupted
std::vector<LinearReport> read_back_gguf(const CandidateInput& input, const MergedWeights& weights,
                                         const std::filesystem::path& file, RunLog& log);

}  // namespace qlora::exporter
