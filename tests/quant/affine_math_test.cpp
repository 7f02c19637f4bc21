#include "quant/affine_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace qlora::quant {
namespace {

constexpr GridRule kRules[] = {GridRule::kAsymmetric, GridRule::kSymmetric,
                               GridRule::kSymmetricFull};
constexpr ScaleType kTypes[] = {ScaleType::kF16, ScaleType::kBF16, ScaleType::kF32};

template <class Body>
void for_each_options(const Body& body) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    for (const GridRule rule : kRules) {
      for (const ScaleType type : kTypes) {
        for (const int64_t least : {0, 1, 2}) {
          SCOPED_TRACE(::testing::Message()
                       << bits << " bits, rule " << static_cast<int>(rule) << ", type "
                       << static_cast<int>(type) << ", least zero " << least);
          body(AffineOptions{.bits = bits, .rule = rule, .scale_type = type, .least_zero = least});
        }
      }
    }
  }
}

/// Half a unit in the last place, relative.
float relative_error_of(ScaleType type) {
  return type == ScaleType::kF16 ? 0x1p-11f : type == ScaleType::kBF16 ? 0x1p-8f : 0x1p-24f;
}

TEST(AffineMath, HasEveryCodeOfItsBits) {
  EXPECT_EQ(affine_max_code(2), 3);
  EXPECT_EQ(affine_max_code(3), 7);
  EXPECT_EQ(affine_max_code(4), 15);
  EXPECT_EQ(affine_max_code(8), 255);
}

TEST(AffineMath, ScalesAreNumbersOfTheirTypeAndNeverZero) {
  for (uint32_t bits = 0; bits < 0x7F800000u; bits += 0x1001) {
    const float x = bits_float(bits);
    const float f16 = rounded_scale(x, ScaleType::kF16), bf16 = rounded_scale(x, ScaleType::kBF16);
    ASSERT_EQ(f16_to_float(float_to_f16(f16)), f16);
    ASSERT_EQ(bf16_to_float(float_to_bf16(bf16)), bf16);
    ASSERT_GT(f16, 0);
    ASSERT_GT(bf16, 0);
    ASSERT_GT(rounded_scale(x, ScaleType::kF32), 0);
    if (x >= 0x1p-14f && x < 65504) {
      ASSERT_NEAR(f16, x, x * 0x1p-11f);
    }
    if (x >= 0x1p-126f && x < 1e38f) {
      ASSERT_NEAR(bf16, x, x * 0x1p-8f);
      ASSERT_EQ(rounded_scale(x, ScaleType::kF32), x);
    }
  }
  EXPECT_EQ(rounded_scale(0, ScaleType::kF16), 0x1p-24f);
  EXPECT_EQ(rounded_scale(0, ScaleType::kBF16), 0x1p-126f);
  EXPECT_EQ(rounded_scale(0, ScaleType::kF32), 0x1p-126f);
  EXPECT_EQ(rounded_scale(65504, ScaleType::kF16), 65504);
  EXPECT_TRUE(std::isinf(rounded_scale(65520, ScaleType::kF16)));
  for (const ScaleType type : kTypes) {
    EXPECT_TRUE(std::isnan(rounded_scale(std::nanf(""), type)));
    EXPECT_TRUE(std::isinf(rounded_scale(std::numeric_limits<float>::infinity(), type)));
  }
}

TEST(AffineMath, GridsHoldTheirRangeAndZero) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for_each_options([&](const AffineOptions& o) {
    const int32_t top = affine_max_code(o.bits);
    const bool is_asymmetric = o.rule == GridRule::kAsymmetric;
    for (int i = 0; i < 2000; ++i) {
      const float size = std::exp2(static_cast<float>(i % 16 - 8));
      float low = normal(random) * size, high = normal(random) * size;
      if (low > high) std::swap(low, high);
      const AffineGrid grid = affine_grid(low, high, o);
      ASSERT_GE(grid.zero, o.least_zero < top / 2 ? o.least_zero : 0);
      ASSERT_LE(grid.zero, top);
      if (!is_asymmetric) {
        ASSERT_EQ(grid.zero, (top + 1) / 2);
      }
      // Zero itself is exact.
      ASSERT_EQ(affine_value(affine_code(0, grid, o.bits), grid), 0);
      // Half a step between codes. The ends miss by what rounding took from the scale, by half a
      // step where the zero point was rounded, and by the half code that symmetric_full gives away.
      // A zero point that was raised to least_zero may cost the low end as much again.
      const bool was_raised =
          is_asymmetric && std::rint(-std::fmin(low, 0.0f) / grid.scale) < o.least_zero;
      const float ulp = std::fmax(grid.scale * relative_error_of(o.scale_type),
                                  o.scale_type == ScaleType::kF16 ? 0x1p-25f : 0.0f);
      const float ends = static_cast<float>(top) * ulp * 1.01f;
      const float bound = (grid.scale * (was_raised ? 1.0f : 0.5f) + ends) * 1.0001f;
      for (int j = 0; j <= 20; ++j) {
        const float w = low + (high - low) * static_cast<float>(j) / 20;
        const float error = w - affine_value(affine_code(w, grid, o.bits), grid);
        ASSERT_LE(std::abs(error), bound) << w << " in " << low << " … " << high;
      }
    }
  });
}

TEST(AffineMath, RulesMeanWhatTheirNamesSay) {
  const auto grid = [](float low, float high, GridRule rule, int64_t least = 0) {
    return affine_grid(low, high,
                       {.rule = rule, .scale_type = ScaleType::kF32, .least_zero = least});
  };
  EXPECT_EQ(grid(-5, 10, GridRule::kAsymmetric).scale, 1);
  EXPECT_EQ(grid(-5, 10, GridRule::kAsymmetric).zero, 5);
  EXPECT_EQ(grid(-7, 3, GridRule::kSymmetric).scale, 1);
  EXPECT_EQ(grid(-7, 3, GridRule::kSymmetric).zero, 8);
  EXPECT_EQ(grid(-15, 3, GridRule::kSymmetricFull).scale, 2);
  EXPECT_EQ(grid(-15, 3, GridRule::kSymmetricFull).zero, 8);
  // Zero is taken into the range.
  EXPECT_EQ(grid(15, 30, GridRule::kAsymmetric).scale, 2);
  EXPECT_EQ(grid(15, 30, GridRule::kAsymmetric).zero, 0);
  EXPECT_EQ(grid(-30, -15, GridRule::kAsymmetric).zero, 15);
  // A format whose zero point starts at 1 loses a code where nothing is negative.
  EXPECT_EQ(grid(15, 28, GridRule::kAsymmetric, 1).scale, 2);
  EXPECT_EQ(grid(15, 28, GridRule::kAsymmetric, 1).zero, 1);
  EXPECT_EQ(affine_value(affine_code(28, grid(15, 28, GridRule::kAsymmetric, 1), 4),
                         grid(15, 28, GridRule::kAsymmetric, 1)),
            28);
}

TEST(AffineMath, RoundsTiesToEvenAndCutsAtTheEnds) {
  const AffineGrid grid{2, 3};
  const std::vector<std::pair<float, int>> cases = {{0, 3},
                                                    {1, 3},
                                                    {3, 5},
                                                    {5, 5},
                                                    {-1, 3},
                                                    {-3, 1},
                                                    {2.9f, 4},
                                                    {24, 15},
                                                    {25, 15},
                                                    {1e30f, 15},
                                                    {-6, 0},
                                                    {-7, 0},
                                                    {-1e30f, 0},
                                                    {-0.0f, 3},
                                                    {std::numeric_limits<float>::infinity(), 15},
                                                    {-std::numeric_limits<float>::infinity(), 0},
                                                    {std::nanf(""), 0}};
  for (const auto& [w, code] : cases) EXPECT_EQ(affine_code(w, grid, 4), code) << w;
}

TEST(AffineMath, EveryCodeIsItsOwnNearest) {
  for_each_options([&](const AffineOptions& o) {
    for (const float size : {1e-3f, 0.02f, 1.0f, 300.0f}) {
      const AffineGrid grid = affine_grid(-0.4f * size, size, o);
      for (int code = 0; code <= affine_max_code(o.bits); ++code) {
        const float value = affine_value(static_cast<uint8_t>(code), grid);
        ASSERT_EQ(affine_code(value, grid, o.bits), code);
      }
    }
  });
}

}  // namespace
}  // namespace qlora::quant
