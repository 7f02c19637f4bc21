#pragma once

#include <cstdint>
#include <vector>

#include "model/plan_shape.h"

namespace qlora::model {

/// What one decoder block needs of a micro-batch, in bytes. T, C, H, D, F, R as everywhere, J kv
/// heads, e bytes of the compute type, T rounded up to 32.
struct BlockActivations {
  /// Kept for the backward:
  ///   FP32      the residual stream before both norms (8 T C), norms' scales (8 T), log-sum-exps
  ///             of the attention (4 T H)
  ///   e         what the linears read: both norms' outputs (2 T C), the attention's (T H D), the
  ///             MLP's (T F); q, k, v (T H D + 2 T J D); gate and up (2 T F); x·Aᵀ (T R) and the
  ///             rounded A and B of the adapters
  int64_t kept = 0;
  /// Most that its backward adds: the gradient of the residual stream (4 T C), with those of gate
  /// and up (2 e T F), or with the attention's, whichever is more.
  int64_t backward = 0;
  /// Most that its forward holds without a graph.
  int64_t forward = 0;
};

/// Adapters of one block.
struct BlockAdapters {
  int64_t ranks = 0;       // sum of R
  int64_t parameters = 0;  // sum of R (N + K)
};

/// The residual stream: T C numbers in FP32, which gradient checkpointing keeps of every block.
int64_t stream_bytes(const PlanShape& shape, const MicroBatch& batch);

std::vector<BlockAdapters> block_adapters(const PlanShape& shape,
                                          const std::vector<PlannedLinear>& linears);

BlockActivations block_activations(const PlanShape& shape, const MicroBatch& batch,
                                   const BlockAdapters& adapters);

/// One block of attention scores and their gradients, with keys and values as matrices.
///   queries   256 rows of each head at a time, of the rows that fit 8 MB together
int64_t attention_workspace(const PlanShape& shape, const MicroBatch& batch);

/// Head and loss: T C numbers of the last norm and n C of the target positions in e and FP32, the
/// chunk of logits (at most 16 MB, at least 32 rows) and the chunk's gradient.
int64_t loss_head_bytes(const PlanShape& shape, const MicroBatch& batch);
/// Of these the chunk of logits.
int64_t logits_bytes(const PlanShape& shape, const MicroBatch& batch);

/// One matrix, decoded for its product: the largest.
int64_t decode_tile_bytes(const PlanShape& shape, const std::vector<PlannedLinear>& linears);

}  // namespace qlora::model
