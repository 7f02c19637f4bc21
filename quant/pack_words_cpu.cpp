#include <algorithm>

#include "core/parallel.h"
#include "quant/pack_words_backend.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {
namespace {

/// Columns of words that one pass takes: a cache line of each row.
constexpr int64_t kTile = 64;

/// Streams down the columns, a tile of rows at a time.
void pack_down(const PackWordsArgs& a, int64_t begin, int64_t end) {
  for (int64_t word = 0; word < stream_words(a.cols, a.bits); ++word) {
    std::fill(a.words + word * a.rows + begin, a.words + word * a.rows + end, 0u);
  }
  for (int64_t k = 0; k < a.cols; ++k) {
    for (int64_t n = begin; n < end; ++n) {
      write_stream(a.words + n, a.rows, k, a.bits, a.codes[n * a.cols + k]);
    }
  }
}

/// Streams across the rows, for columns [begin, end).
void pack_across(const PackWordsArgs& a, int64_t begin, int64_t end) {
  const int64_t stride = stream_words(a.rows, a.bits);
  std::fill(a.words + begin * stride, a.words + end * stride, 0u);
  for (int64_t n = 0; n < a.rows; ++n) {
    const int64_t place =
        a.order == WordOrder::kAwq ? n / 8 * 8 + awq_nibble(static_cast<int>(n % 8)) : n;
    for (int64_t k = begin; k < end; ++k) {
      write_stream(a.words + k * stride, 1, place, a.bits, a.codes[n * a.cols + k]);
    }
  }
}

}  // namespace

void cpu::pack_words(const PackWordsArgs& a) {
  const bool down = a.order == WordOrder::kDown;
  const int64_t count = down ? a.rows : a.cols;
  parallel_for((count + kTile - 1) / kTile, 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t begin = tile * kTile, end = std::min(count, begin + kTile);
      down ? pack_down(a, begin, end) : pack_across(a, begin, end);
    }
  });
}

}  // namespace qlora::quant
