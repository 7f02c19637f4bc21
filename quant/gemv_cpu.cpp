#include <algorithm>
#include <array>
#include <vector>

#include "core/parallel.h"
#include "quant/affine_math.h"
#include "quant/float_math.h"
#include "quant/gemv_backend.h"
#include "quant/nf4_backend.h"
#include "quant/word_math.h"

namespace qlora::quant {
namespace {

/// Eight chains of additions: a vector's worth, in one order on every target.
float dot(const float* w, const float* x, int64_t count) {
  std::array<float, 8> sums{};
  int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) sums[lane] += w[k + lane] * x[k + lane];
  }
  for (; k < count; ++k) sums[k % 8] += w[k] * x[k];
  float sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

/// Calls decode(row, weights) for each row and multiplies it with all tokens.
template <class Decode>
void gemv_rows(const GemvVectors& v, int64_t rows, int64_t cols, const Decode& decode) {
  std::vector<float> x(v.tokens * cols);
  for (int64_t i = 0; i < v.tokens * cols; ++i) x[i] = load_number(v.kind, v.x, i);
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, cols));
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    std::vector<float> w(cols);
    for (int64_t n = begin; n < end; ++n) {
      decode(n, w.data());
      for (int64_t t = 0; t < v.tokens; ++t) {
        const float y = dot(w.data(), x.data() + t * cols, cols);
        store_number(v.kind, y, v.y, t * rows + n);
      }
    }
  });
}

}  // namespace

int64_t word_gemv_splits(WordLayout layout, int64_t rows, int64_t cols, int multiprocessors) {
  constexpr int64_t kWarps = 8, kLeastOfWarp = 64;  // columns that are worth a warp
  const int64_t rows_of_block = layout == WordLayout::kGptq ? 128 : 64;
  const int64_t blocks = (rows + rows_of_block - 1) / rows_of_block;
  const int64_t at_once = 3 * int64_t{multiprocessors};
  if (blocks >= at_once) return 1;
  const auto rounds = [&](int64_t splits) { return (blocks * splits + at_once - 1) / at_once; };
  int64_t best = 1;
  for (int64_t splits = 2; splits <= cols / (kWarps * kLeastOfWarp); ++splits) {
    if (rounds(splits) * best < rounds(best) * splits) best = splits;  // rounds of 1 / splits each
  }
  return best;
}

void cpu::gemv_nf4(const Nf4GemvArgs& a) {
  gemv_rows(a.vectors, a.rows, a.cols, [&](int64_t row, float* w) {
    dequantize_nf4({.codes = a.codes,
                    .scales = a.scales,
                    .type = a.type,
                    .block_size = a.block_size,
                    .begin = row * a.cols,
                    .count = a.cols,
                    .out = w,
                    .out_kind = FloatKind::kF32});
  });
}

void cpu::gemv_packed(const PackedGemvArgs& a) {
  gemv_rows(a.vectors, a.weight.rows, a.weight.cols, [&](int64_t row, float* w) {
    const PackedAffineArgs& p = a.weight;
    for (int64_t k = 0; k < p.cols; ++k) {
      const int64_t g = p.group_of != nullptr ? p.group_of[k] : k / p.group_size;
      const AffineGrid grid{load_number(p.scale_kind, p.scales, row * p.groups + g),
                            p.zeros[row * p.groups + g]};
      w[k] = affine_value(packed_code(p.codes + row * p.row_bytes, k, p.two_a_byte), grid);
    }
  });
}

void cpu::gemv_words(const WordGemvArgs& a) {
  const bool is_awq = a.layout == WordLayout::kAwq;
  gemv_rows(a.vectors, a.rows, a.cols, [&](int64_t n, float* w) {
    const int zero_shift = is_awq ? awq_shift(n) : gptq_shift(n);
    for (int64_t k = 0; k < a.cols; ++k) {
      const int64_t g = a.group_of != nullptr ? a.group_of[k] : k / a.group_size;
      const uint32_t zeros = zero_word(a.zeros[g * (a.rows / 8) + n / 8], a.zeros_less_one);
      const float centre = kWordCentre + static_cast<float>((zeros >> zero_shift) & 15u);
      const float code = is_awq
                             ? centred_code(a.words[k * (a.rows / 8) + n / 8], zero_shift, centre)
                             : centred_code(a.words[k / 8 * a.rows + n], gptq_shift(k), centre);
      w[k] = load_number(a.scale_kind, a.scales, g * a.rows + n) * code;
    }
  });
}

}  // namespace qlora::quant
