#pragma once

#include <cstddef>
#include <cstdint>

#include "io/ggml_type.h"

namespace qlora::io {

/// out[i] = weight i of a run of whole blocks.
///   data      count / block_elements blocks of `type` at any alignment
///   count     a multiple of the type's block_elements
///   throws    ValueError for a type without can_dequantize or a count that splits a block
///   Numerics  bit-exact with gguf-py 0.19: products and sums in float, each rounded, never fused
///   cost      above 500 million weights a second on one thread for Q4_1 and Q8_0 (AVX2)
void dequantize_ggml(GgmlType type, const std::byte* data, int64_t count, float* out);

/// Row of a GGUF q or k projection that holds row `row` of the Hugging Face one. llama.cpp rotates
/// neighbouring pairs (2j, 2j + 1), transformers halves (j, j + D/2), so its converter permutes the
/// rows inside each head.
///   head_dim  D, even
constexpr int64_t gguf_rope_row(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim, half = head_dim / 2;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

/// Undoes the permutation on whole heads.
///   in, out   [rows, columns] f32, not the same memory; rows a multiple of head_dim, head_dim even
///   throws    ValueError where they are not
void unpermute_rope_rows(const float* in, int64_t rows, int64_t columns, int64_t head_dim,
                         float* out);

}  // namespace qlora::io
