#pragma once

#include <torch/types.h>

#include <cstdint>

// Codes as the bit streams of packed_layout_math.h, for the layouts of checkpoints. Tensors are
// contiguous and on the CPU; sizes are the caller's to check.
namespace qlora::quant::layouts {

/// The words of an i32 tensor.
inline const uint32_t* words_of(const torch::Tensor& t) {
  return reinterpret_cast<const uint32_t*>(t.const_data_ptr<int32_t>());
}
inline uint32_t* mutable_words_of(const torch::Tensor& t) {
  return reinterpret_cast<uint32_t*>(t.mutable_data_ptr<int32_t>());
}

/// Codes [N, count] u8 of streams that run down the columns of words [words, N] i32.
torch::Tensor unpack_columns(const torch::Tensor& words, int64_t count, int64_t bits);

/// Reverse of unpack_columns.
torch::Tensor pack_columns(const torch::Tensor& codes, int64_t bits);

/// Codes [rows, count] u8 of streams that run along the rows of words [rows, words] i32.
torch::Tensor unpack_rows(const torch::Tensor& words, int64_t count, int64_t bits);

/// Reverse of unpack_rows.
torch::Tensor pack_rows(const torch::Tensor& codes, int64_t bits);

}  // namespace qlora::quant::layouts
