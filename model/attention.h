#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

namespace qlora::model {

/// What attention is beside its tensors.
struct AttentionOptions {
  int64_t head_dim = 0;  // D
  double scale = 0;      // of the products q·k; 0: 1 / sqrt(D)
  int64_t window = 0;    // keys that a query sees, its own among them; 0: all up to its own
  double softcap = 0;    // a score s becomes softcap·tanh(s / softcap); 0: it stays
};

/// Causal attention inside each segment: softmax(cap(scale·q·kᵀ))·v, grouped-query where H > kv
/// heads.
///   q         [T, H·D], k and v [T, kv heads·D], one number type; returns [T, H·D]
///   Segments  segment_starts [S + 1]; tokens of different segments never meet. Segments of
///             similar length share one product
///   Window    a block of queries is multiplied with the keys that it sees alone: cost and memory
///             grow with T·window, and no mask is made
///   Backward  dq, dk, dv
///   Source    Vaswani et al., arXiv:1706.03762, eq. 1; Ainslie et al., GQA, arXiv:2305.13245;
///             window Beltagy et al., Longformer, arXiv:2004.05150; cap Gemma Team, Gemma 2,
///             arXiv:2408.00118, section 2
torch::Tensor attention(const torch::Tensor& q, const torch::Tensor& k, const torch::Tensor& v,
                        const std::vector<int32_t>& segment_starts,
                        const AttentionOptions& options);

/// New tokens of one sequence behind a cache; no graph.
///   q         [n, H·D]; keys, values [kv heads, cached + n, D] with the new ones at the end
torch::Tensor cached_attention(const torch::Tensor& q, const torch::Tensor& keys,
                               const torch::Tensor& values, const AttentionOptions& options);

}  // namespace qlora::model
