#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "core/error.h"

namespace qlora {
namespace {

struct KnownAnswer {
  uint64_t counter, stream, seed;
  std::array<uint32_t, 4> words;
};

// From the known-answer file of Random123, the authors' own library.
TEST(Philox, KnownAnswers) {
  const KnownAnswer cases[] = {
      {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {~0ull, ~0ull, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {0x85a308d3243f6a88,
       0x0370734413198a2e,
       0x299f31d0a4093822,
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
  for (const KnownAnswer& known : cases) {
    const PhiloxBlock block = philox4x32(known.counter, known.stream, known.seed);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(block.word[i], known.words[i]);
  }
}

TEST(Philox, UnitFloatCoversItsRange) {
  EXPECT_EQ(unit_float(0), 0.0f);
  EXPECT_EQ(unit_float(~0u), 1.0f - 0x1p-24f);
  for (uint32_t word = 0; word < 0xFFFF0000u; word += 65521) {
    EXPECT_EQ(unit_float(word), std::floor(word / 256.0) / 16777216.0);
  }
}

TEST(Rng, WordsAreThoseOfTheCounter) {
  Rng rng(7, 3);
  for (uint64_t counter = 0; counter < 5; ++counter) {
    const PhiloxBlock block = philox4x32(counter, 3, 7);
    for (const uint32_t word : block.word) EXPECT_EQ(rng.next_u32(), word);
  }
}

TEST(Rng, ContinuesFromAnyState) {
  for (int drawn = 0; drawn < 9; ++drawn) {
    Rng first(42, 1);
    for (int i = 0; i < drawn; ++i) first.next_u32();
    Rng second(0);
    second.restore(first.state());
    EXPECT_EQ(second.state(), first.state());
    for (int i = 0; i < 20; ++i) EXPECT_EQ(second.next_u32(), first.next_u32());
    EXPECT_EQ(second.normal(), first.normal());
    EXPECT_EQ(second.below(1000), first.below(1000));
  }
}

TEST(Rng, SeedsAndStreamsDiffer) {
  EXPECT_NE(Rng(1).next_u64(), Rng(2).next_u64());
  EXPECT_NE(Rng(1, 0).next_u64(), Rng(1, 1).next_u64());
}

// 200,000 draws: the bounds are six standard errors wide.
TEST(Rng, UniformAndNormalHaveTheirMoments) {
  Rng rng(1);
  const int count = 200000;
  double sum = 0, squares = 0, normal_sum = 0, normal_squares = 0, fourth = 0;
  for (int i = 0; i < count; ++i) {
    const double u = rng.uniform(), n = rng.normal();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    ASSERT_TRUE(std::isfinite(n));
    sum += u;
    squares += u * u;
    normal_sum += n;
    normal_squares += n * n;
    fourth += n * n * n * n;
  }
  const double error = 6.0 / std::sqrt(count);
  EXPECT_NEAR(sum / count, 0.5, error * std::sqrt(1.0 / 12));
  EXPECT_NEAR(squares / count, 1.0 / 3, error * std::sqrt(4.0 / 45));
  EXPECT_NEAR(normal_sum / count, 0.0, error);
  EXPECT_NEAR(normal_squares / count, 1.0, error * std::sqrt(2.0));
  EXPECT_NEAR(fourth / count, 3.0, error * std::sqrt(96.0));
}

TEST(Rng, BelowIsEvenAndInRange) {
  Rng rng(5);
  for (const uint64_t n : {1ull, 2ull, 3ull, 7ull, 10ull}) {
    std::vector<int> counts(n);
    const int draws = 70000;
    for (int i = 0; i < draws; ++i) {
      const uint64_t x = rng.below(n);
      ASSERT_LT(x, n);
      ++counts[x];
    }
    const double mean = static_cast<double>(draws) / static_cast<double>(n);
    for (const int c : counts) EXPECT_NEAR(c, mean, 6 * std::sqrt(mean));
  }
  // A biased modulus would put two thirds of the draws below 2^63 here.
  const uint64_t n = 3ull << 62;
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += rng.below(n) < (n / 2);
  EXPECT_NEAR(low, 15000, 6 * std::sqrt(7500.0));
  EXPECT_EQ(rng.below(1), 0u);
  EXPECT_LE(rng.below(~0ull), ~0ull - 1);
  EXPECT_THROW(rng.below(0), ValueError);
}

TEST(Rng, ShuffleIsAPermutationAndEven) {
  Rng rng(9);
  std::vector<int> items(1000);
  std::iota(items.begin(), items.end(), 0);
  std::vector<int> shuffled = items;
  rng.shuffle(shuffled);
  EXPECT_NE(shuffled, items);
  std::sort(shuffled.begin(), shuffled.end());
  EXPECT_EQ(shuffled, items);
  std::map<std::vector<int>, int> orders;
  for (int i = 0; i < 24000; ++i) {
    std::vector<int> four = {0, 1, 2, 3};
    rng.shuffle(four);
    ++orders[four];
  }
  EXPECT_EQ(orders.size(), 24u);
  for (const auto& [order, count] : orders) EXPECT_NEAR(count, 1000, 6 * std::sqrt(1000.0));
  std::vector<int> none;
  rng.shuffle(none);
  EXPECT_TRUE(none.empty());
}

}  // namespace
}  // namespace qlora
