#pragma once

#include <cstdint>

namespace qlora::quant {

/// How codes are laid into 32-bit words (packed_layout_math.h).
enum class WordOrder {
  kDown,    // a stream runs down the columns of each row: words [stream_words(cols), rows]. GPTQ's
            // qweight
  kAcross,  // a stream runs across the rows of each column: words [cols, stream_words(rows)].
            // GPTQ's qzeros, from zero points [rows, groups]
  kAwq,     // as kAcross at 4 bits, each eight rows in AWQ's order of nibbles; rows a multiple of 8
};

struct PackWordsArgs {
  WordOrder order;
  const uint8_t* codes;  // [rows, cols], each below 2^bits
  int64_t rows;
  int64_t cols;
  int64_t bits;            // 2, 3, 4 or 8
  uint32_t* words;         // every word is written
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
void pack_words(const PackWordsArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void pack_words(const PackWordsArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
