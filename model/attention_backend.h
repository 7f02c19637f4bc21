#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::model {

/// Rows of attention scores of one block of queries against all keys up to the block's end.
/// Row r of a batch belongs to query first_query + r % queries and sees the keys up to itself.
struct CausalRows {
  int64_t batches;      // segments · kv heads
  int64_t rows;         // query heads that share a kv head, times queries
  int64_t queries;      // of the block
  int64_t first_query;  // of the block, in its segment
  int64_t keys;         // first_query + queries
  int64_t head_dim;     // D
  float scale;          // 1 / sqrt(D)
  FloatKind kind;       // of every untyped array

  int64_t visible(int64_t row) const { return first_query + row % queries + 1; }
};

/// scores := softmax(scale·scores) over the visible keys, 0 elsewhere.
struct CausalSoftmaxArgs {
  CausalRows shape;
  void* scores;      // [batches, rows, keys]
  float* logsumexp;  // [batches, rows], kept for the backward
};

/// scores := P = exp(scale·scores − logsumexp);  dscores := scale·P·(dscores − sum(dout·out)).
///   Source    Dao et al., FlashAttention, arXiv:2205.14135, appendix B.2
struct CausalSoftmaxBackwardArgs {
  CausalRows shape;
  void* scores;            // [batches, rows, keys]
  void* dscores;           // [batches, rows, keys], comes in as dout·vᵀ
  const float* logsumexp;  // [batches, rows]
  const void* out;         // [batches, rows, D]
  const void* dout;        // [batches, rows, D]
};

/// Copies between the flat layout [T, J·group·D] and matrices of one batch, [S·J, group·queries,
/// D]: query heads that share a kv head stand below each other. Rows past the end of a segment are
/// zero in the matrices and absent in the flat layout.
struct HeadLayout {
  const int64_t* begins;   // [S] first token of each segment
  const int64_t* lengths;  // [S] tokens of each segment
  int64_t segments;        // S
  int64_t kv_heads;        // J
  int64_t group;           // query heads a kv head; 1 for keys and values
  int64_t first, queries;  // positions [first, first + queries) of every segment
  int64_t row_bytes;       // of D elements
};

namespace cpu {
void gather_heads(const HeadLayout& layout, const void* flat, void* matrices);
void scatter_heads(const HeadLayout& layout, const void* matrices, void* flat);
void causal_softmax(const CausalSoftmaxArgs& a);
void causal_softmax_backward(const CausalSoftmaxBackwardArgs& a);
}  // namespace cpu

}  // namespace qlora::model
