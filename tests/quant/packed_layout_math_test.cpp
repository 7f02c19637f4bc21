#include "quant/packed_layout_math.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace qlora::quant {
namespace {

/// The definition: number k takes the bits [k·bits, (k + 1)·bits), bit by bit.
uint32_t by_definition(const std::vector<uint32_t>& words, int64_t index, int64_t bits) {
  uint32_t value = 0;
  for (int64_t b = 0; b < bits; ++b) {
    const int64_t bit = index * bits + b;
    value |= (words[bit / 32] >> (bit % 32) & 1u) << b;
  }
  return value;
}

TEST(PackedLayout, EveryPositionReadsTheBitsOfTheDefinition) {
  std::mt19937 random(1);
  for (const int64_t bits : {1, 2, 3, 4, 5, 6, 7, 8}) {
    for (const int64_t count : {1, 31, 32, 33, 96, 200}) {
      std::vector<uint32_t> words(stream_words(count, bits));
      for (auto& word : words) word = random();
      ASSERT_EQ(static_cast<int64_t>(words.size()), (count * bits + 31) / 32);
      for (int64_t i = 0; i < count; ++i) {
        ASSERT_EQ(read_stream(words.data(), 1, i, bits), by_definition(words, i, bits))
            << bits << " bits, number " << i;
      }
    }
  }
}

TEST(PackedLayout, EveryValueAtEveryPositionComesBackAndTouchesNoOther) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    for (int64_t i = 0; i < 96; ++i) {
      for (uint32_t value = 0; value < 1u << bits; ++value) {
        std::vector<uint32_t> words(stream_words(96, bits) * 2, 0);  // every other word
        write_stream(words.data() + 1, 2, i, bits, value);
        for (int64_t j = 0; j < 96; ++j) {
          ASSERT_EQ(read_stream(words.data() + 1, 2, j, bits), j == i ? value : 0u);
        }
        for (size_t w = 0; w < words.size(); w += 2) ASSERT_EQ(words[w], 0u);
      }
    }
  }
}

TEST(PackedLayout, ThreeBitsStraddleWordsAtTenAndTwentyOne) {
  for (int64_t i = 0; i < 64; ++i) {
    const StreamSlot slot = stream_slot(i, 3);
    EXPECT_EQ(slot.low_bits < 3, i % 32 == 10 || i % 32 == 21) << i;
  }
  EXPECT_EQ(stream_slot(10, 3).low_bits, 2);
  EXPECT_EQ(stream_slot(21, 3).low_bits, 1);
}

TEST(PackedLayout, TheStreamOfOnesHoldsOnes) {
  EXPECT_EQ(stream_of_ones(0, 2), 0x55555555u);
  EXPECT_EQ(stream_of_ones(5, 4), 0x11111111u);
  EXPECT_EQ(stream_of_ones(2, 8), 0x01010101u);
  for (const int64_t bits : {2, 3, 4, 8}) {
    std::vector<uint32_t> words;
    for (int64_t w = 0; w < 2 * bits; ++w) words.push_back(stream_of_ones(w, bits));
    for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(read_stream(words.data(), 1, i, bits), 1u);
  }
}

TEST(PackedLayout, AwqNibblesAreAPermutationAndItsReverse) {
  constexpr int kColumns[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  for (int n = 0; n < 8; ++n) {
    EXPECT_EQ(awq_column(n), kColumns[n]);
    EXPECT_EQ(awq_nibble(kColumns[n]), n);
  }
}

}  // namespace
}  // namespace qlora::quant
