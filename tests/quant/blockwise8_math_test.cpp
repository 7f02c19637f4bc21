#include "quant/blockwise8_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "tests/quant/fixture.h"

namespace qlora::quant {
namespace {

class DynamicMath : public ::testing::TestWithParam<DynamicMap> {
 protected:
  const DynamicTable& table() const { return dynamic_table(GetParam()); }

  /// First of the codes whose level is nearest, in exact arithmetic (differences of such floats fit
  /// a long double).
  int brute_code(float x) const {
    int best = 0;
    auto distance = [&](int c) {
      return std::abs(static_cast<long double>(x) - static_cast<long double>(table().levels[c]));
    };
    for (int c = 1; c < 256; ++c) {
      if (distance(c) < distance(best)) best = c;
    }
    return best;
  }

  void check(float x) const {
    // Beyond these the difference no longer fits, and the answer is plain.
    const float cut = std::abs(x) > 4 ? std::copysign(4.0f, x) : x;
    if (std::abs(x) > 0x1p-40f || x == 0) {
      ASSERT_EQ(dynamic_code(table(), x), brute_code(cut)) << x;
    }
  }
};

TEST_P(DynamicMath, LevelsAreThoseOfBitsandbytes) {
  const testing::BnbFixture fixture("quant8");
  const auto levels = fixture.get<float>(
      GetParam() == DynamicMap::kSigned ? "code.dynamic_signed" : "code.dynamic_unsigned");
  for (int c = 0; c < 256; ++c)
    ASSERT_EQ(float_bits(table().levels[c]), float_bits(levels[c])) << c;
}

TEST_P(DynamicMath, LevelsRiseAndEachCodeComesBackFromItsLevel) {
  for (int c = 0; c < 256; ++c) {
    if (c > 0) {
      EXPECT_LT(table().levels[c - 1], table().levels[c]);
    }
    EXPECT_EQ(dynamic_code(table(), table().levels[c]), c);
  }
}

TEST_P(DynamicMath, ThresholdsAreTheGreatestFloatsNotAboveTheMidpoints) {
  for (int c = 0; c < 255; ++c) {
    const double exact =
        (static_cast<double>(table().levels[c]) + static_cast<double>(table().levels[c + 1])) / 2;
    EXPECT_LE(table().thresholds[c], exact) << c;
    EXPECT_GT(std::nextafter(table().thresholds[c], 2.0f), exact) << c;
  }
}

TEST_P(DynamicMath, EverySixteenBitNumberGetsTheNearestCode) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    for (const float x :
         {f16_to_float(static_cast<uint16_t>(bits)), bf16_to_float(static_cast<uint16_t>(bits))}) {
      if (std::isfinite(x)) check(x);
    }
  }
}

TEST_P(DynamicMath, MidpointsAndTheirNeighboursGetTheNearestCode) {
  for (int c = 0; c < 255; ++c) {
    float x = table().thresholds[c];
    for (int i = 0; i < 4; ++i) x = std::nextafter(x, -2.0f);
    for (int i = 0; i < 8; ++i, x = std::nextafter(x, 2.0f)) check(x);
  }
}

TEST_P(DynamicMath, RandomNumbersOfAllSizesGetTheNearestCode) {
  std::mt19937 random(4);
  std::uniform_real_distribution<float> exponent(-9, 0.3f);
  for (int i = 0; i < 50'000; ++i) {
    const float x = std::pow(10.0f, exponent(random));
    check(x);
    check(-x);
  }
}

TEST_P(DynamicMath, InfinityAndNotANumberGetTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(dynamic_code(table(), infinity), 255);
  EXPECT_EQ(dynamic_code(table(), -infinity), 0);
  EXPECT_EQ(dynamic_code(table(), std::nanf("")), 0);
}

INSTANTIATE_TEST_SUITE_P(Maps, DynamicMath,
                         ::testing::Values(DynamicMap::kSigned, DynamicMap::kUnsigned),
                         [](const auto& info) {
                           return info.param == DynamicMap::kSigned ? "signed" : "unsigned";
                         });

TEST(Blockwise8Math, BlocksOfZerosGetCodeZero) {
  for (const SignRule rule : {SignRule::kNearest, SignRule::kKeep}) {
    EXPECT_EQ(blockwise8_code(signed_dynamic_table(), 0.0f, blockwise8_scale(0.0f), rule), 0);
    EXPECT_EQ(blockwise8_code(signed_dynamic_table(), -0.0f, blockwise8_scale(0.0f), rule), 0);
  }
  EXPECT_EQ(blockwise8_value(signed_dynamic_table(), 0, 0.0f), 0.0f);
}

TEST(Blockwise8Math, SubnormalAbsmaxIsDividedByWhereItsReciprocalOverflows) {
  for (const float absmax : {1e-45f, 1e-40f, 2.9e-39f, 2.95e-39f, 1e-38f}) {
    const Blockwise8Scale scale = blockwise8_scale(absmax);
    EXPECT_NEAR(blockwise8_normalize(absmax, scale), 1.0f, 1e-6f) << absmax;
    EXPECT_NEAR(blockwise8_normalize(-absmax, scale), -1.0f, 1e-6f) << absmax;
    EXPECT_EQ(blockwise8_normalize(0.0f, scale), 0.0f) << absmax;
  }
}

TEST(Blockwise8Math, KeepingTheSignMovesOnlyTinyNegativeNumbers) {
  const DynamicTable& table = signed_dynamic_table();
  const Blockwise8Scale scale = blockwise8_scale(1.0f);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float x = bf16_to_float(static_cast<uint16_t>(bits));
    if (!(std::abs(x) <= 1)) continue;
    const uint8_t nearest = blockwise8_code(table, x, scale, SignRule::kNearest);
    const uint8_t kept = blockwise8_code(table, x, scale, SignRule::kKeep);
    const bool loses_sign = x < 0 && table.levels[nearest] == 0;
    ASSERT_EQ(kept, loses_sign ? nearest - 1 : nearest) << x;
    ASSERT_TRUE(x >= 0 || table.levels[kept] < 0) << x;
  }
}

TEST(Blockwise8Math, KeepingTheSignHasNothingToDoInTheUnsignedMap) {
  const Blockwise8Scale scale = blockwise8_scale(1.0f);
  EXPECT_EQ(blockwise8_code(unsigned_dynamic_table(), -1e-9f, scale, SignRule::kKeep), 0);
  EXPECT_EQ(blockwise8_code(unsigned_dynamic_table(), -1.0f, scale, SignRule::kKeep), 0);
}

}  // namespace
}  // namespace qlora::quant
