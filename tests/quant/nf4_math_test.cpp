#include "quant/nf4_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/quant/fixture.h"

namespace qlora::quant {
namespace {

class FourBitMath : public ::testing::TestWithParam<FourBitType> {
 protected:
  FourBitType type() const { return GetParam(); }
  float max_error() const { return type() == FourBitType::kNf4 ? kNf4MaxError : kFp4MaxError; }
  std::string name() const { return type() == FourBitType::kNf4 ? "nf4" : "fp4"; }

  /// What four_bit_code has to give, from the definition: the rank is the number of midpoints
  /// below.
  uint8_t brute_code(float x) const {
    std::vector<std::pair<float, int>> sorted;
    for (int c = 0; c < 16; ++c) sorted.emplace_back(four_bit_level(type(), c), c);
    std::stable_sort(sorted.begin(), sorted.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    size_t rank = 0;
    while (rank < 15 && x > (sorted[rank].first + sorted[rank + 1].first) / 2.0f) ++rank;
    return static_cast<uint8_t>(sorted[rank].second);
  }

  /// Distance to the nearest level.
  double distance(double x) const {
    double least = 10;
    for (int c = 0; c < 16; ++c) least = std::min(least, std::abs(x - four_bit_level(type(), c)));
    return least;
  }

  void check(float x) const {
    if (!(std::abs(x) <= 1)) return;
    const uint8_t code = four_bit_code(type(), x);
    ASSERT_EQ(code, brute_code(x)) << x;
    const double error = std::abs(double{x} - four_bit_level(type(), code));
    ASSERT_LE(error, max_error()) << x;
    ASSERT_LE(error, distance(x) + 0x1p-24) << x;  // the midpoint itself is rounded
  }
};

TEST_P(FourBitMath, LevelsAndMidpointsAreThoseOfBitsandbytes) {
  const testing::BnbFixture fixture("quant4");
  const auto levels = fixture.get<float>("code." + name());
  const auto midpoints = fixture.get<float>("bounds." + name());
  for (int c = 0; c < 16; ++c) EXPECT_EQ(four_bit_level(type(), c), levels[c]) << c;
  for (int k = 0; k < 15; ++k) EXPECT_EQ(four_bit_midpoint(type(), k), midpoints[k]) << k;
}

TEST_P(FourBitMath, EveryCodeComesBackFromItsLevel) {
  for (int c = 0; c < 16; ++c) {
    const uint8_t code = four_bit_code(type(), four_bit_level(type(), c));
    EXPECT_EQ(four_bit_level(type(), code), four_bit_level(type(), c));
    const bool is_second_zero = type() == FourBitType::kFp4 && c == 8;
    EXPECT_EQ(code, is_second_zero ? 0 : c);
  }
}

TEST_P(FourBitMath, RanksAreAPermutationInRisingOrder) {
  uint32_t seen = 0;
  for (int r = 0; r < 16; ++r) {
    seen |= 1u << four_bit_code_of_rank(type(), r);
    if (r == 0) continue;
    EXPECT_LE(four_bit_level(type(), four_bit_code_of_rank(type(), r - 1)),
              four_bit_level(type(), four_bit_code_of_rank(type(), r)));
  }
  EXPECT_EQ(seen, 0xFFFFu);
}

TEST_P(FourBitMath, EverySixteenBitNumberGetsTheNearestCode) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    check(f16_to_float(static_cast<uint16_t>(bits)));
    check(bf16_to_float(static_cast<uint16_t>(bits)));
  }
}

TEST_P(FourBitMath, TiesGoDownAndTheirNeighboursToTheirSide) {
  for (int k = 0; k < 15; ++k) {
    const float middle = four_bit_midpoint(type(), k);
    const uint8_t low = four_bit_code_of_rank(type(), k);
    const uint8_t high = four_bit_code_of_rank(type(), k + 1);
    EXPECT_EQ(four_bit_code(type(), middle), low) << k;
    EXPECT_EQ(four_bit_code(type(), std::nextafter(middle, -9.0f)), low) << k;
    EXPECT_EQ(four_bit_code(type(), std::nextafter(middle, 9.0f)), high) << k;
  }
}

TEST_P(FourBitMath, RandomNumbersGetTheNearestCode) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (int i = 0; i < 200'000; ++i) check(uniform(random));
}

TEST_P(FourBitMath, TheWorstErrorIsTheOneStated) {
  double worst = 0;
  for (int i = -1'000'000; i <= 1'000'000; ++i) worst = std::max(worst, distance(i * 1e-6));
  EXPECT_NEAR(worst, max_error(), 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Types, FourBitMath,
                         ::testing::Values(FourBitType::kNf4, FourBitType::kFp4),
                         [](const auto& info) {
                           return info.param == FourBitType::kNf4 ? "nf4" : "fp4";
                         });

TEST(Nf4Math, NotANumberGetsTheLowestCode) {
  EXPECT_EQ(nf4_code(std::nanf("")), 0);
  EXPECT_EQ(fp4_level(fp4_code(std::nanf(""))), -1.0f);
}

TEST(Nf4Math, ZerosOfFp4) {
  EXPECT_EQ(fp4_code(0.0f), 0);
  EXPECT_EQ(fp4_code(-0.0f), 0);
  EXPECT_EQ(fp4_code(1e-45f), 8);
  EXPECT_EQ(fp4_code(-1e-45f), 0);
  EXPECT_EQ(float_bits(fp4_level(8)), 0u);  // +0, not -0
}

TEST(Nf4Math, EveryByteUnpacksToWhatItWasPackedFrom) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto b = static_cast<uint8_t>(byte);
    EXPECT_EQ(four_bit_at(&b, 0), byte >> 4);
    EXPECT_EQ(four_bit_at(&b, 1), byte & 15);
    EXPECT_EQ(four_bit_pack(four_bit_at(&b, 0), four_bit_at(&b, 1)), b);
  }
}

TEST(Nf4Math, FullBlocksMultiplyAndTailBlocksDivide) {
  const Nf4BlockScale full = nf4_block_scale(3.0f, false);
  const Nf4BlockScale tail = nf4_block_scale(3.0f, true);
  EXPECT_EQ(full.stored, 3.0f);
  EXPECT_EQ(tail.stored, 3.0f);
  int different = 0;
  for (int i = 1; i < 300; ++i) {
    const float x = 0.01f * static_cast<float>(i);
    EXPECT_EQ(nf4_normalize(x, full), x * (1.0f / 3.0f));
    EXPECT_EQ(nf4_normalize(x, tail), x / 3.0f);
    different += x * (1.0f / 3.0f) != x / 3.0f ? 1 : 0;
  }
  EXPECT_GT(different, 50);  // the two rules are not the same
}

TEST(Nf4Math, ZeroBlocksKeepTheirAbsmaxAndZeroTailsStoreTheDivisor) {
  EXPECT_EQ(nf4_block_scale(0.0f, false).stored, 0.0f);
  EXPECT_EQ(nf4_block_scale(0.0f, true).stored, kMinAbsmax);
  EXPECT_EQ(nf4_code(nf4_normalize(0.0f, nf4_block_scale(0.0f, false))), 7);
  EXPECT_EQ(nf4_code(nf4_normalize(0.0f, nf4_block_scale(0.0f, true))), 7);
}

TEST(Nf4Math, SubnormalBlocksStayInRange) {
  for (const float absmax : {1e-45f, 1e-40f, 1e-38f, 1.1754944e-38f}) {
    for (const bool is_tail : {false, true}) {
      const Nf4BlockScale scale = nf4_block_scale(absmax, is_tail);
      const float x = nf4_normalize(absmax, scale);
      EXPECT_TRUE(x >= 0 && x <= 1) << absmax;
      EXPECT_EQ(nf4_normalize(-absmax, scale), -x);
    }
  }
}

TEST(Nf4Math, AbsmaxItselfNeverLeavesTheRange) {
  std::mt19937 random(3);
  for (int i = 0; i < 100'000; ++i) {
    const float absmax = bits_float(0x3F800000u + (static_cast<uint32_t>(random()) >> 9));
    EXPECT_LE(nf4_normalize(absmax, nf4_block_scale(absmax, false)), 1.0f);
    EXPECT_GE(nf4_normalize(-absmax, nf4_block_scale(absmax, false)), -1.0f);
  }
}

TEST(Nf4Math, ScalesAreRoundedTwice) {
  const uint8_t codes[1] = {200};
  const float nested[1] = {0.3f};
  const Nf4Scales scales{nullptr, codes, nested, 0.7f};
  const volatile float product = signed_dynamic_table().levels[200] * 0.3f;
  EXPECT_EQ(nf4_scale(scales, 0), product + 0.7f);
  const float absmax[2] = {1, 2};
  EXPECT_EQ(nf4_scale({absmax, nullptr, nullptr, 5}, 1), 2.0f);
}

TEST(Nf4Math, GroupSumAddsInTheStatedOrder) {
  // 2^53 + 1 rounds down: an order that adds the ones to it one by one would lose all of them.
  double v[kSumGroup] = {};
  v[0] = 0x1p53;
  for (int i = 1; i < kSumGroup; ++i) v[i] = 1;
  double expected[kSumGroup];
  std::copy(v, v + kSumGroup, expected);
  for (int stride = 128; stride > 0; stride /= 2) {
    for (int i = 0; i < stride; ++i) expected[i] = expected[i] + expected[i + stride];
  }
  EXPECT_EQ(sum_group(v), expected[0]);
  EXPECT_GT(v[0], 0x1p53);
}

}  // namespace
}  // namespace qlora::quant
