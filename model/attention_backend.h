#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::model {

/// Rows of attention scores of one block of queries against the keys that any of them sees.
/// Row r of a batch belongs to query first_query + r % queries and sees the keys up to itself, the
/// last `window` of them where there is a window.
struct CausalRows {
  int64_t batches;      // segments · kv heads
  int64_t rows;         // query heads that share a kv head, times queries
  int64_t queries;      // of the block
  int64_t first_query;  // of the block, in its segment
  int64_t first_key;    // position of column 0
  int64_t keys;         // columns: up to the block's end
  int64_t window;       // 0: none
  int64_t head_dim;     // D
  float scale;          // of the products q·k
  float softcap;        // a score s becomes softcap·tanh(s / softcap); 0: it stays
  FloatKind kind;       // of every untyped array

  int64_t end(int64_t row) const { return first_query + row % queries + 1 - first_key; }
  int64_t begin(int64_t row) const {
    const int64_t from = end(row) - window;
    return window == 0 || from < 0 ? 0 : from;
  }
};

/// scores := softmax(cap(scale·scores)) over the visible keys, 0 elsewhere.
struct CausalSoftmaxArgs {
  CausalRows shape;
  void* scores;      // [batches, rows, keys]
  float* logsumexp;  // [batches, rows], kept for the backward
};

/// scores := P = exp(s − logsumexp) with s = cap(scale·scores);
/// dscores := scale·slope·P·(dscores − sum(dout·out)), slope 1, or 1 − (s / softcap)² of a cap.
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
