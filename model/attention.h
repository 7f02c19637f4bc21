#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace qlora::model {

/// Causal attention inside each segment: softmax(q·kᵀ / sqrt(D))·v, grouped-query where H > kv
/// heads.
///   q         [T, H·D], k and v [T, kv heads·D], one number type; returns [T, H·D]
///   Segments  segment_starts [S + 1]; tokens of different segments never meet. Segments of
///             similar length share one product
///   Backward  dq, dk, dv
///   Source    Vaswani et al., arXiv:1706.03762, eq. 1; Ainslie et al., GQA, arXiv:2305.13245
torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const std::vector<int32_t>& segment_starts, int64_t head_dim);

/// New tokens of one sequence behind a cache; no graph.
///   q         [n, H·D]; keys, values [kv heads, cached + n, D] with the new ones at the end
torch::Tensor cached_attention(const torch::Tensor& q, const torch::Tensor& keys,
                               const torch::Tensor& values, int64_t head_dim);

}  // namespace qlora::model
