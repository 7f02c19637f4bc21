#pragma once

#include <torch/types.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "model/attention.h"

namespace qlora::model {

/// Factor of the products q·k.
inline float score_scale(const AttentionOptions& options) {
  if (options.scale > 0) return static_cast<float>(options.scale);
  return 1.0f / std::sqrt(static_cast<float>(options.head_dim));
}

/// attention() on a CUDA device: libtorch's scaled_dot_product_attention, segment by segment.
///   Fused     without a softcap: flash attention for f16 and bf16, memory-efficient attention for
///             f32 and where a window needs a mask
///   Composed  with a softcap, from libtorch's operations: holds the scores of a segment,
///             [H, L, L] f32
torch::Tensor device_attention(const torch::Tensor& q, const torch::Tensor& k,
                               const torch::Tensor& v, const std::vector<int32_t>& segment_starts,
                               const AttentionOptions& options);

/// cached_attention() on a CUDA device.
torch::Tensor device_cached_attention(const torch::Tensor& q, const torch::Tensor& keys,
                                      const torch::Tensor& values, const AttentionOptions& options);

}  // namespace qlora::model
