#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "quant/affine.h"
#include "quant/gptq_options.h"

/// gptq_backend.h as a composition of libtorch's operations: the path of CUDA tensors, and an
/// oracle of the vectorised code, equal to it bit for bit. Nothing waits for the device.
namespace qlora::quant::composed {

struct GptqBlock {
  torch::Tensor weight;         // [N, K] in the order of rounding; changed in [begin, end)
  torch::Tensor factor;         // [K, K]
  torch::Tensor column_weight;  // [K], kMse
  AffineOptions affine;
  ScaleSearch search = ScaleSearch::kMinMax;
  int64_t search_steps = 1;
  double search_least = 1;
  int64_t group_size = 0;
  bool fits = true;
  torch::Tensor scales;  // [N, groups]
  torch::Tensor zeros;   // [N, groups] u8
  torch::Tensor codes;   // [N, K] u8
};

/// Rounds columns [begin, end) and returns their errors [N, end - begin]. column_group is on the
/// CPU, so that the loop over columns needs nothing from the device.
torch::Tensor gptq_block(GptqBlock& block, const std::vector<int32_t>& column_group, int64_t begin,
                         int64_t end);

/// Grids of runs of columns by kMinMax or kMse.
void search_grids(GptqBlock& block);

}  // namespace qlora::quant::composed
