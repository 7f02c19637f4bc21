#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace qlora::model {

/// Adds uniform noise in ±alpha / sqrt(L·C) to the embeddings of a segment of L tokens.
///   h         [T, C] f32, changed in place
///   Numerics  the same numbers for the same seed and draw, whatever the thread count
///   Source    Jain et al., NEFTune, arXiv:2310.05914, algorithm 1
void add_neftune_noise(torch::Tensor& h, const std::vector<int32_t>& segment_starts, double alpha,
                       uint64_t seed, uint64_t draw);

}  // namespace qlora::model
