// The slopes of rounding to a grid that is given: the mask where codes are cut, and LSQ's scale.
#include <gtest/gtest.h>

#include <cmath>

#include "quant/affine_gradient_backend.h"
#include "quant/affine_gradient_math.h"
#include "tests/quant/cpu_case.h"

namespace qlora::quant {
namespace {

TEST(AffineSlope, IsOneUpToTheBoundsAndZeroBehindThem) {
  const AffineGrid grid{0.5F, 3};  // codes 0 to 15: -1.5 to 6
  EXPECT_EQ(affine_slope(-1.5F, grid, 4).by_weight, 1);
  EXPECT_EQ(affine_slope(6.0F, grid, 4).by_weight, 1);
  EXPECT_EQ(affine_slope(-1.74F, grid, 4).by_weight, 1);  // still rounds to code 0
  EXPECT_EQ(affine_slope(-1.76F, grid, 4).by_weight, 0);
  EXPECT_EQ(affine_slope(6.24F, grid, 4).by_weight, 1);
  EXPECT_EQ(affine_slope(6.26F, grid, 4).by_weight, 0);
  EXPECT_EQ(affine_slope(-100.0F, grid, 4).by_scale, -3);
  EXPECT_EQ(affine_slope(100.0F, grid, 4).by_scale, 12);
  EXPECT_FLOAT_EQ(affine_slope(0.6F, grid, 4).by_scale, 1 - 1.2F);
}

/// Of the surrogate scale · (w / scale + c), c being what rounding adds where the scale stands, or
/// scale · (end - zero) where the code is cut.
TEST(AffineSlope, OfTheScaleEqualsFiniteDifferencesOfTheSurrogate) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    const AffineGrid grid{0.25F, affine_max_code(bits) / 2};
    for (int i = 0; i < 109; ++i) {
      const double w = -20 + 0.37 * i;
      const uint8_t code = affine_code(static_cast<float>(w), grid, bits);
      const AffineSlope slope = affine_slope(static_cast<float>(w), grid, bits);
      const double offset = code - grid.zero - w / grid.scale;
      const auto value = [&](double scale) {
        if (slope.by_weight == 0) return scale * (code - grid.zero);
        // Rounding's step is held, w / scale moves: d/ds (s·(w/s + offset(s0))) through the STE.
        return scale * (code - grid.zero) - (w / grid.scale) * (scale - grid.scale);
      };
      const double step = 1e-3;
      const double difference = (value(0.25 + step) - value(0.25 - step)) / (2 * step);
      EXPECT_NEAR(slope.by_scale, difference, 1e-5 * (1 + std::abs(difference))) << w;
      if (slope.by_weight == 1) {
        EXPECT_NEAR(slope.by_scale, offset, 1e-5) << w;
      }
    }
  }
}

/// Anchored codes stay where the scale of their values moves, so that nothing is held by hand: the
/// differences by the scale are of the values themselves.
TEST(AnchoredSlope, EqualsFiniteDifferences) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    const AffineGrid grid{0.25F, affine_max_code(bits) / 2};
    int cut = 0;
    for (int i = 0; i < 109; ++i) {
      const float w = -20 + 0.37F * static_cast<float>(i), scale = 0.3F, step = 0x1p-6F;
      const uint8_t code = affine_code(w, grid, bits);
      const AffineSlope slope = anchored_slope(w, grid, scale, bits);
      const auto value = [&](float s) { return affine_value(code, {s, grid.zero}); };
      const float difference = (value(scale + step) - value(scale - step)) / (2 * step);
      EXPECT_NEAR(slope.by_scale, difference, 1e-5 * std::abs(difference)) << w;
      // By the weight, of the surrogate: a code more for every grid.scale.
      const bool inside = affine_slope(w, grid, bits).by_weight == 1;
      if (code != grid.zero) {
        const float code_step = value(scale) / static_cast<float>(code - grid.zero);
        EXPECT_FLOAT_EQ(slope.by_weight, inside ? code_step / grid.scale : 0) << w;
      }
      cut += !inside;
    }
    EXPECT_EQ(cut > 0, bits < 8);
  }
}

TEST(AffineSlope, GradientScaleIsThatOfThePaper) {
  EXPECT_FLOAT_EQ(lsq_gradient_scale(64, 4), 1 / std::sqrt(64.0F * 7));
  EXPECT_FLOAT_EQ(lsq_gradient_scale(128, 8), 1 / std::sqrt(128.0F * 127));
}

class AffineGradient : public ::testing::TestWithParam<int64_t> {
 protected:
  static void expect_the_math(bool anchored);
};

void AffineGradient::expect_the_math(bool anchored) {
  const testing::UseSimdTarget use(GetParam());
  constexpr int64_t kRows = 7;
  for (const auto& [cols, size] :
       {std::pair<int64_t, int64_t>{64, 32}, {96, 96}, {45, 5}, {33, 11}}) {
    for (const int64_t bits : {2, 3, 4, 8}) {
      const int64_t groups = cols / size;
      const auto w = testing::normal_values(kRows * cols, 3, 1.0F);
      const auto arriving = testing::normal_values(kRows * cols, 4, 1.0F);
      std::vector<float> scales(kRows * groups), values(w.size()), gradient = arriving,
                                                                   by_scale(kRows * groups);
      std::vector<uint8_t> zeros(kRows * groups);
      for (size_t g = 0; g < scales.size(); ++g) {
        // Narrow enough that both ends cut.
        scales[g] = 1.5F / static_cast<float>(affine_max_code(bits)) *
                    (1 + 0.1F * static_cast<float>(g % 3));
        zeros[g] = static_cast<uint8_t>(affine_max_code(bits) / 2 + g % 2);
      }
      std::vector<float> value_scales(scales.size());
      for (size_t g = 0; g < scales.size(); ++g) {
        value_scales[g] = scales[g] * (0.8F + 0.1F * static_cast<float>(g % 5));
      }
      cpu::affine_gradient({.weight = w.data(),
                            .rows = kRows,
                            .cols = cols,
                            .group_size = size,
                            .bits = bits,
                            .scales = scales.data(),
                            .zeros = zeros.data(),
                            .value_scales = anchored ? value_scales.data() : nullptr,
                            .values = values.data(),
                            .gradient = gradient.data(),
                            .scale_gradient = by_scale.data()});
      int64_t cut = 0;
      for (int64_t g = 0; g < kRows * groups; ++g) {
        double sum = 0, size_of_sum = 0;
        const AffineGrid grid{scales[g], zeros[g]};
        for (int64_t i = g * size; i < (g + 1) * size; ++i) {
          const AffineSlope slope = anchored ? anchored_slope(w[i], grid, value_scales[g], bits)
                                             : affine_slope(w[i], grid, bits);
          const float scale = anchored ? value_scales[g] : scales[g];
          ASSERT_EQ(values[i], affine_value(affine_code(w[i], grid, bits), {scale, zeros[g]}));
          ASSERT_EQ(gradient[i], slope.by_weight * arriving[i]);
          sum += static_cast<double>(arriving[i]) * slope.by_scale;
          size_of_sum += std::abs(static_cast<double>(arriving[i]) * slope.by_scale);
          cut += slope.by_weight == 0;
        }
        // f32 sums of `size` products: each addition and product rounds by at most 2^-24.
        ASSERT_NEAR(by_scale[g], sum, size_of_sum * static_cast<double>(size + 1) * 0x1p-24);
      }
      EXPECT_GT(cut, 0);
      EXPECT_LT(cut, kRows * cols);
    }
  }
}

TEST_P(AffineGradient, EqualsTheMathElementByElement) {
  expect_the_math(/*anchored=*/false);
}

TEST_P(AffineGradient, OfAnchoredCodesEqualsTheMathElementByElement) {
  expect_the_math(/*anchored=*/true);
}

INSTANTIATE_TEST_SUITE_P(Targets, AffineGradient, ::testing::ValuesIn(testing::simd_targets()));

}  // namespace
}  // namespace qlora::quant
