// Products of one or a few tokens with a weight that stays packed.
#include <random>

#include "quant/affine_math.h"
#include "quant/gemv_backend.h"
#include "quant/packed_layout_math.h"
#include "tests/kernels/back_end.h"
#include "tests/kernels/bounds.h"

namespace qlora::quant {
namespace {

using testing::KernelCase;
using testing::Numbers;
using testing::Placed;

/// A weight in exact numbers, and x.
struct Product {
  int64_t rows, cols, tokens;
  std::vector<double> weight;  // [rows, cols]
  Numbers x;                   // [tokens, cols]

  Product(int64_t rows, int64_t cols, int64_t tokens, FloatKind kind)
      : rows(rows),
        cols(cols),
        tokens(tokens),
        weight(rows * cols),
        x(kind, testing::normal_values(tokens * cols, 77, 1.0f)) {}

  /// |y - Σ w·x| <= gamma(gemv_roundings) · Σ |w·x|, then one rounding to the type of y.
  void expect(Numbers y, FloatKind kind) {
    const double relative = testing::gamma(static_cast<double>(gemv_roundings(cols)));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < rows; ++n) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const double term = weight[n * cols + k] * x.get(t * cols + k);
          sum += term;
          magnitude += std::fabs(term);
        }
        ASSERT_TRUE(testing::within(y.get(t * rows + n), sum, relative * magnitude, kind))
            << "row " << n << ", token " << t;
      }
    }
  }
};

class GemvKernel : public testing::KernelTest {
 protected:
  void nf4(int64_t rows, int64_t cols, int64_t tokens, FourBitType type, bool is_nested,
           int64_t offset = 0) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", " << tokens << " tokens");
    constexpr int64_t kBlock = 64;
    Product p(rows, cols, tokens, kind());
    const int64_t blocks = (rows * cols + kBlock - 1) / kBlock;
    const auto codes = testing::random_bytes((rows * cols + 1) / 2, 3);
    const auto scale_codes = testing::random_bytes(blocks, 5);
    auto absmax = testing::normal_values(is_nested ? (blocks + 255) / 256 : blocks, 7, 0.3f);
    Nf4Scales scales{.absmax = is_nested ? nullptr : absmax.data(),
                     .codes = scale_codes.data(),
                     .nested_absmax = absmax.data(),
                     .offset = is_nested ? 0.0625f : 0};
    for (int64_t i = 0; i < rows * cols; ++i) {
      p.weight[i] = static_cast<double>(four_bit_level(type, four_bit_at(codes.data(), i))) *
                    nf4_scale(scales, i / kBlock);
    }
    auto device_codes = array(codes), device_scale_codes = array(scale_codes);
    auto device_absmax = array(absmax);
    scales.codes = device_scale_codes.data();
    scales.nested_absmax = device_absmax.data();
    if (!is_nested) scales.absmax = device_absmax.data();
    Placed x(GetParam(), p.x, offset), y(GetParam(), Numbers(kind(), tokens * rows));
    const Nf4GemvArgs args{device_codes.data(),
                           scales,
                           type,
                           kBlock,
                           rows,
                           cols,
                           {x.data(), y.data(), tokens, kind()}};
    is_cuda() ? cuda::gemv_nf4(args) : cpu::gemv_nf4(args);
    p.expect(y.values(), kind());
  }

  void packed(int64_t rows, int64_t cols, int64_t tokens, int bits, int64_t group_size,
              bool is_ordered) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", " << tokens << " tokens, "
                                      << bits << " bits" << (is_ordered ? ", reordered" : ""));
    Product p(rows, cols, tokens, kind());
    const int64_t groups = (cols + group_size - 1) / group_size;
    const int64_t row_bytes = bits == 4 ? (cols + 1) / 2 : cols;
    const auto codes = testing::random_bytes(rows * row_bytes, 11);
    auto zeros = testing::random_bytes(rows * groups, 12);
    if (bits == 4) {
      for (uint8_t& zero : zeros) zero &= 15;
    }
    Numbers scales(kind(), testing::normal_values(rows * groups, 13, 0.02f));
    const std::vector<int32_t> group_of = shuffled_groups(cols, group_size);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t n = i / cols, k = i % cols;
      const int64_t g = n * groups + (is_ordered ? group_of[k] : k / group_size);
      const int code = packed_code(codes.data() + n * row_bytes, k, bits == 4);
      p.weight[i] = static_cast<double>(scales.get(g)) * (code - zeros[g]);
    }
    auto device_codes = array(codes), device_zeros = array(zeros);
    auto device_order = array(group_of);
    Placed device_scales(GetParam(), scales);
    Placed x(GetParam(), p.x), y(GetParam(), Numbers(kind(), tokens * rows));
    const PackedGemvArgs args{.weight = {.codes = device_codes.data(),
                                         .row_bytes = row_bytes,
                                         .two_a_byte = bits == 4,
                                         .scales = device_scales.data(),
                                         .scale_kind = kind(),
                                         .zeros = device_zeros.data(),
                                         .group_of = is_ordered ? device_order.data() : nullptr,
                                         .rows = rows,
                                         .cols = cols,
                                         .groups = groups,
                                         .group_size = group_size,
                                         .out = nullptr,
                                         .out_kind = kind()},
                              .vectors = {x.data(), y.data(), tokens, kind()}};
    is_cuda() ? cuda::gemv_packed(args) : cpu::gemv_packed(args);
    p.expect(y.values(), kind());
  }

  void words(WordLayout layout, int64_t rows, int64_t cols, int64_t tokens, int64_t group_size,
             bool is_ordered, bool less_one, int64_t splits = 1, int64_t offset = 0) {
    SCOPED_TRACE(::testing::Message()
                 << rows << " x " << cols << ", " << tokens << " tokens, groups of " << group_size
                 << ", " << splits << " splits" << (is_ordered ? ", reordered" : ""));
    const bool is_awq = layout == WordLayout::kAwq;
    Product p(rows, cols, tokens, kind());
    const int64_t groups = (cols + group_size - 1) / group_size;
    std::vector<uint32_t> code_words(rows * cols / 8), zero_words(groups * rows / 8);
    std::mt19937 random(29);
    for (uint32_t& word : code_words) word = random();
    for (uint32_t& word : zero_words) word = random();
    Numbers scales(kind(), testing::normal_values(groups * rows, 14, 0.02f));
    const std::vector<int32_t> group_of = shuffled_groups(cols, group_size);
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t k = 0; k < cols; ++k) {
        const int64_t g = is_ordered ? group_of[k] : k / group_size;
        const int place = is_awq ? awq_nibble(static_cast<int>(n % 8)) : static_cast<int>(n % 8);
        const uint32_t word =
            is_awq ? code_words[k * (rows / 8) + n / 8] : code_words[k / 8 * rows + n];
        const int code = static_cast<int>(word >> (4 * (is_awq ? place : k % 8)) & 15);
        // Added to the whole word, as its readers do.
        const uint32_t zero = zero_words[g * (rows / 8) + n / 8] + (less_one ? 0x11111111u : 0);
        p.weight[n * cols + k] = static_cast<double>(scales.get(g * rows + n)) *
                                 (code - static_cast<int>(zero >> (4 * place) & 15));
      }
    }
    auto device_words = array(code_words), device_zeros = array(zero_words);
    auto device_order = array(group_of);
    auto partial = filled(splits * tokens * rows, -1.0f);
    Placed device_scales(GetParam(), scales);
    Placed x(GetParam(), p.x, offset), y(GetParam(), Numbers(kind(), tokens * rows));
    const WordGemvArgs args{.layout = layout,
                            .words = device_words.data(),
                            .zeros = device_zeros.data(),
                            .zeros_less_one = less_one,
                            .scales = device_scales.data(),
                            .scale_kind = kind(),
                            .group_of = is_ordered ? device_order.data() : nullptr,
                            .rows = rows,
                            .cols = cols,
                            .groups = groups,
                            .group_size = group_size,
                            .vectors = {x.data(), y.data(), tokens, kind()},
                            .splits = splits,
                            .partial = partial.data()};
    is_cuda() ? cuda::gemv_words(args) : cpu::gemv_words(args);
    p.expect(y.values(), kind());
  }

  static std::vector<int32_t> shuffled_groups(int64_t cols, int64_t group_size) {
    std::vector<int32_t> group_of;
    for (int64_t k = 0; k < cols; ++k) group_of.push_back(static_cast<int32_t>(k / group_size));
    std::shuffle(group_of.begin(), group_of.end(), std::mt19937(7));
    return group_of;
  }
};

TEST_P(GemvKernel, Nf4OfOneTokenAndOfMany) {
  for (const bool is_nested : {false, true}) {
    for (const int64_t tokens : {1, 6}) {
      nf4(3, 1056, tokens, FourBitType::kNf4, is_nested);  // a lane has two pieces
      nf4(19, 64, tokens, FourBitType::kFp4, is_nested);
    }
  }
}

TEST_P(GemvKernel, Nf4OfAnyShape) {
  nf4(5, 63, 2, FourBitType::kNf4, true);      // blocks run over the ends of rows
  nf4(6, 64, 1, FourBitType::kNf4, false, 1);  // x is not aligned
  nf4(1, 1, 1, FourBitType::kFp4, false);
}

TEST_P(GemvKernel, PackedCodesOfFourAndEightBits) {
  for (const int bits : {4, 8}) {
    for (const bool is_ordered : {false, true}) {
      for (const int64_t tokens : {1, 5}) {
        packed(3, 1056, tokens, bits, 32, is_ordered);
        packed(18, 128, tokens, bits, 128, is_ordered);
      }
      packed(5, 47, 2, bits, 16, is_ordered);  // no row is aligned
      packed(2, 96, 1, bits, 24, is_ordered);  // a piece lies in two groups
    }
  }
}

TEST_P(GemvKernel, GptqWords) {
  for (const bool is_ordered : {false, true}) {
    for (const int64_t tokens : {1, 5}) {
      words(WordLayout::kGptq, 40, 256, tokens, 32, is_ordered, true);
      words(WordLayout::kGptq, 96, 1032, tokens, 1032, is_ordered, false, 3);
      words(WordLayout::kGptq, 168, 64, tokens, 32, is_ordered, false);
    }
  }
  words(WordLayout::kGptq, 8, 8, 1, 8, false, true);
  words(WordLayout::kGptq, 32, 88, 2, 11, false, true);        // a word lies in two groups
  words(WordLayout::kGptq, 32, 64, 1, 64, false, true, 1, 1);  // x is not aligned
}

TEST_P(GemvKernel, AwqWords) {
  for (const int64_t tokens : {1, 5}) {
    words(WordLayout::kAwq, 72, 256, tokens, 32, false, false);
    words(WordLayout::kAwq, 136, 1031, tokens, 1031, false, false, 3);
  }
  words(WordLayout::kAwq, 8, 1, 1, 1, false, false);
  words(WordLayout::kAwq, 64, 96, 2, 32, true, true);  // nobody writes it so, nothing forbids it
}

TEST(GemvSplits, FillADeviceWhereTheColumnsSuffice) {
  EXPECT_EQ(word_gemv_splits(WordLayout::kGptq, 11008, 4096, 132), 4);  // 344 of 396 blocks
  EXPECT_EQ(word_gemv_splits(WordLayout::kAwq, 4096, 8192, 132), 6);
  EXPECT_EQ(word_gemv_splits(WordLayout::kAwq, 4096, 1024, 132), 2);  // no more columns
  EXPECT_EQ(word_gemv_splits(WordLayout::kGptq, 128256, 4096, 108), 1);
  EXPECT_EQ(word_gemv_splits(WordLayout::kGptq, 8, 8, 132), 1);
}

INSTANTIATE_TEST_SUITE_P(, GemvKernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
