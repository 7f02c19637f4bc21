#include "quant/layouts_streams.h"

#include <algorithm>

#include "core/parallel.h"
#include "quant/pack_words_backend.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant::layouts {
namespace {

using torch::Tensor;

/// Columns of words that one pass takes: a cache line of each row.
constexpr int64_t kTileColumns = 64;

}  // namespace

Tensor unpack_columns(const Tensor& words, int64_t count, int64_t bits) {
  const int64_t n = words.size(1);
  Tensor codes = torch::empty({n, count}, torch::kUInt8);
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  const uint32_t* in = words_of(words);
  parallel_for((n + kTileColumns - 1) / kTileColumns, 1, [&](int64_t first, int64_t last) {
    for (int64_t tile = first; tile < last; ++tile) {
      const int64_t end = std::min(n, (tile + 1) * kTileColumns);
      for (int64_t k = 0; k < count; ++k) {
        for (int64_t c = tile * kTileColumns; c < end; ++c) {
          out[c * count + k] = static_cast<uint8_t>(read_stream(in + c, n, k, bits));
        }
      }
    }
  });
  return codes;
}

Tensor pack_columns(const Tensor& codes, int64_t bits) {
  const int64_t n = codes.size(0), count = codes.size(1);
  Tensor words = torch::empty({stream_words(count, bits), n}, torch::kInt32);
  cpu::pack_words({.order = WordOrder::kDown,
                   .codes = codes.const_data_ptr<uint8_t>(),
                   .rows = n,
                   .cols = count,
                   .bits = bits,
                   .words = mutable_words_of(words)});
  return words;
}

Tensor unpack_rows(const Tensor& words, int64_t count, int64_t bits) {
  const int64_t rows = words.size(0), stride = words.size(1);
  Tensor codes = torch::empty({rows, count}, torch::kUInt8);
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  const uint32_t* in = words_of(words);
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t k = 0; k < count; ++k) {
        out[r * count + k] = static_cast<uint8_t>(read_stream(in + r * stride, 1, k, bits));
      }
    }
  });
  return codes;
}

Tensor pack_rows(const Tensor& codes, int64_t bits) {
  const int64_t rows = codes.size(0), count = codes.size(1), stride = stream_words(count, bits);
  Tensor words = torch::zeros({rows, stride}, torch::kInt32);
  uint32_t* out = mutable_words_of(words);
  const uint8_t* in = codes.const_data_ptr<uint8_t>();
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for (int64_t k = 0; k < count; ++k) {
        write_stream(out + r * stride, 1, k, bits, in[r * count + k]);
      }
    }
  });
  return words;
}

}  // namespace qlora::quant::layouts
