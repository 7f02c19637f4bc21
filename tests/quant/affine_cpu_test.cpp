#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "quant/affine_backend.h"
#include "quant/affine_math.h"
#include "tests/quant/cpu_case.h"

namespace qlora::quant {
namespace {

struct Result {
  std::vector<float> scales, values;
  std::vector<uint8_t> zeros, codes;
};

using Parameters = std::tuple<int64_t, int64_t, GridRule, ScaleType>;

/// Every instruction set x bits x rule x scale type against affine_math.h, element by element.
class AffineCpu : public ::testing::TestWithParam<Parameters> {
 protected:
  int64_t target() const { return std::get<0>(GetParam()); }
  AffineOptions options(int64_t least_zero = 0) const {
    return {.bits = std::get<1>(GetParam()),
            .rule = std::get<2>(GetParam()),
            .scale_type = std::get<3>(GetParam()),
            .least_zero = least_zero};
  }
};

Result empty_result(int64_t rows, int64_t cols, int64_t groups) {
  return {std::vector<float>(rows * groups, -1), std::vector<float>(rows * cols, -1),
          std::vector<uint8_t>(rows * groups, 0xEE), std::vector<uint8_t>(rows * cols, 0xEE)};
}

Result defined_result(const std::vector<float>& w, int64_t rows, int64_t cols, int64_t size,
                      const AffineOptions& o) {
  Result r = empty_result(rows, cols, cols / size);
  for (int64_t g = 0; g < rows * cols / size; ++g) {
    float low = w[g * size], high = low;
    for (int64_t i = g * size; i < (g + 1) * size; ++i) {
      low = std::min(low, w[i]);
      high = std::max(high, w[i]);
    }
    const AffineGrid grid = affine_grid(low, high, o);
    r.scales[g] = grid.scale;
    r.zeros[g] = static_cast<uint8_t>(grid.zero);
    for (int64_t i = g * size; i < (g + 1) * size; ++i) {
      r.codes[i] = affine_code(w[i], grid, o.bits);
      r.values[i] = affine_value(r.codes[i], grid);
    }
  }
  return r;
}

AffineArgs arguments(const std::vector<float>& w, Result& r, int64_t rows, int64_t cols,
                     int64_t groups, const AffineOptions& o, int64_t* bad) {
  return {.weight = w.data(),
          .rows = rows,
          .cols = cols,
          .group_size = cols / groups,
          .groups = groups,
          .group_of = nullptr,
          .options = o,
          .scales = r.scales.data(),
          .zeros = r.zeros.data(),
          .codes = r.codes.data(),
          .values = r.values.data(),
          .first_bad_row = bad};
}

void expect_equal(const Result& got, const Result& want) {
  ASSERT_EQ(got.scales, want.scales);
  ASSERT_EQ(got.zeros, want.zeros);
  ASSERT_EQ(got.codes, want.codes);
  ASSERT_EQ(got.values, want.values);
}

constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 1},   {7, 1},   {96, 32},  {192, 64},
                                                   {60, 20}, {33, 33}, {128, 16}, {45, 5}};

TEST_P(AffineCpu, FitsAndRoundsAsTheMathSays) {
  const testing::UseSimdTarget use(target());
  for (const auto& [cols, size] : kShapes) {
    for (const int64_t least : {0, 1}) {
      for (const float sigma : {0.02f, 3.0f, 1e-6f}) {
        const int64_t rows = 9;
        auto w = testing::normal_values(rows * cols, 3 + cols, sigma);
        for (int64_t i = 0; i < size; ++i) w[i] = 0;                             // an empty group
        for (int64_t i = 0; i < cols; ++i) w[cols + i] = std::abs(w[cols + i]);  // no negative
        for (int64_t i = 0; i < cols; ++i) w[2 * cols + i] = -std::abs(w[2 * cols + i]);
        w[3 * cols] = -0.0f;
        const AffineOptions o = options(least);
        const Result want = defined_result(w, rows, cols, size, o);
        int64_t bad = rows;
        Result got = empty_result(rows, cols, cols / size);
        cpu::affine_fit_and_round(arguments(w, got, rows, cols, cols / size, o, &bad));
        expect_equal(got, want);

        Result steps = empty_result(rows, cols, cols / size);
        AffineArgs args = arguments(w, steps, rows, cols, cols / size, o, &bad);
        cpu::affine_grids(args);
        ASSERT_EQ(steps.codes, std::vector<uint8_t>(rows * cols, 0xEE));
        cpu::affine_round(args);
        expect_equal(steps, want);

        std::fill(steps.values.begin(), steps.values.end(), -1.0f);
        cpu::affine_values(args);
        expect_equal(steps, want);
        ASSERT_EQ(bad, rows);

        AffineArgs values_only = arguments(w, steps, rows, cols, cols / size, o, &bad);
        values_only.scales = nullptr;
        values_only.zeros = nullptr;
        values_only.codes = nullptr;
        std::fill(steps.values.begin(), steps.values.end(), -1.0f);
        cpu::affine_fit_and_round(values_only);
        ASSERT_EQ(steps.values, want.values);
      }
    }
  }
}

TEST_P(AffineCpu, RoundsColumnsOfAnyGroup) {
  const testing::UseSimdTarget use(target());
  const int64_t rows = 5, cols = 77, groups = 6;
  const auto w = testing::normal_values(rows * cols, 5, 1.0f);
  std::vector<int32_t> group_of(cols);
  for (int64_t k = 0; k < cols; ++k) group_of[k] = static_cast<int32_t>(k * 31 % groups);
  const AffineOptions o = options();
  Result r = empty_result(rows, cols, groups);
  for (int64_t i = 0; i < rows * groups; ++i) {
    const AffineGrid grid = affine_grid(-0.1f * static_cast<float>(i % 7), 1 + 0.1f * i, o);
    r.scales[i] = grid.scale;
    r.zeros[i] = static_cast<uint8_t>(grid.zero);
  }
  Result want = r;
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t g = i / cols * groups + group_of[i % cols];
    const AffineGrid grid{r.scales[g], r.zeros[g]};
    want.codes[i] = affine_code(w[i], grid, o.bits);
    want.values[i] = affine_value(want.codes[i], grid);
  }
  AffineArgs args = arguments(w, r, rows, cols, groups, o, nullptr);
  args.group_of = group_of.data();
  cpu::affine_round(args);
  expect_equal(r, want);
  std::fill(r.values.begin(), r.values.end(), -1.0f);
  cpu::affine_values(args);
  expect_equal(r, want);
  std::fill(r.codes.begin(), r.codes.end(), 0xEE);
  args.values = nullptr;
  cpu::affine_round(args);
  expect_equal(r, want);
}

TEST_P(AffineCpu, RoundsScaledColumnsAndTakesTheScalesOutAgain) {
  const testing::UseSimdTarget use(target());
  for (const auto& [cols, size] : kShapes) {
    const int64_t rows = 7;
    const auto w = testing::normal_values(rows * cols, 9);
    auto by = testing::normal_values(cols, 10, 1.0f);
    for (float& s : by) s = std::abs(s) + 0.01f;
    auto scaled = w;
    for (int64_t i = 0; i < rows * cols; ++i) scaled[i] *= by[i % cols];
    Result want = defined_result(scaled, rows, cols, size, options());
    for (int64_t i = 0; i < rows * cols; ++i) want.values[i] = want.values[i] / by[i % cols] - w[i];
    Result got = empty_result(rows, cols, cols / size);
    int64_t bad = rows;
    cpu::affine_scaled_error(arguments(w, got, rows, cols, cols / size, options(), &bad),
                             by.data());
    ASSERT_EQ(got.values, want.values);
    ASSERT_EQ(bad, rows);
    by[cols / 2] = std::numeric_limits<float>::infinity();
    cpu::affine_scaled_error(arguments(w, got, rows, cols, cols / size, options(), &bad),
                             by.data());
    ASSERT_EQ(bad, 0);
  }
}

TEST_P(AffineCpu, RoundsTiesAndNumbersFarOutside) {
  const testing::UseSimdTarget use(target());
  const AffineOptions o = options();
  std::vector<float> w;
  for (int i = -600; i <= 600; ++i) w.push_back(static_cast<float>(i) * 0.5f);
  for (const float x : {1e30f, -1e30f, 3.4e38f, std::numeric_limits<float>::infinity(),
                        -std::numeric_limits<float>::infinity(), std::nanf(""), -0.0f, 1e-45f}) {
    w.push_back(x);
  }
  const auto cols = static_cast<int64_t>(w.size());
  for (const float scale : {1.0f, 0.5f, 3.0f, 0x1p-24f, 0.0f}) {
    for (const int zero : {0, 1, 8, affine_max_code(o.bits)}) {
      Result r = empty_result(1, cols, 1);
      r.scales = {scale};
      r.zeros = {static_cast<uint8_t>(zero)};
      cpu::affine_round(arguments(w, r, 1, cols, 1, o, nullptr));
      for (int64_t i = 0; i < cols; ++i) {
        ASSERT_EQ(r.codes[i], affine_code(w[i], {scale, zero}, o.bits)) << w[i] << " / " << scale;
      }
    }
  }
}

TEST_P(AffineCpu, FindsTheFirstRowThatIsNotFinite) {
  const testing::UseSimdTarget use(target());
  const int64_t rows = 40, cols = 64;
  for (const float poison : {std::nanf(""), -std::nanf(""), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()}) {
    for (const int64_t at : {0, 15, 31, 47, 63}) {
      auto w = testing::normal_values(rows * cols, 6);
      w[12 * cols + at] = w[30 * cols + at] = poison;
      Result r = empty_result(rows, cols, 2);
      int64_t bad = rows, bad_grid = rows;
      cpu::affine_fit_and_round(arguments(w, r, rows, cols, 2, options(), &bad));
      cpu::affine_grids(arguments(w, r, rows, cols, 2, options(), &bad_grid));
      EXPECT_EQ(bad, 12);
      EXPECT_EQ(bad_grid, 12);
    }
  }
}

TEST_P(AffineCpu, TheThreadCountChangesNoBit) {
  const testing::UseSimdTarget use(target());
  const int64_t rows = 301, cols = 192;
  const auto w = testing::normal_values(rows * cols, 8);
  const Result want = defined_result(w, rows, cols, 64, options());
  for (const int threads : {1, 2, 3, 8}) {
    const testing::UseThreads with(threads);
    Result got = empty_result(rows, cols, 3);
    int64_t bad = rows;
    cpu::affine_fit_and_round(arguments(w, got, rows, cols, 3, options(), &bad));
    expect_equal(got, want);
  }
}

std::string case_name(const ::testing::TestParamInfo<Parameters>& info) {
  const auto [target, bits, rule, type] = info.param;
  return std::string(hwy::TargetName(target)) + "_" + std::to_string(bits) + "_" +
         EnumNames<GridRule>::kNames[static_cast<int>(rule)].second + "_" +
         EnumNames<ScaleType>::kNames[static_cast<int>(type)].second;
}

INSTANTIATE_TEST_SUITE_P(
    All, AffineCpu,
    ::testing::Combine(::testing::ValuesIn(testing::simd_targets()), ::testing::Values(2, 3, 4, 8),
                       ::testing::Values(GridRule::kAsymmetric, GridRule::kSymmetric,
                                         GridRule::kSymmetricFull),
                       ::testing::Values(ScaleType::kF16, ScaleType::kBF16, ScaleType::kF32)),
    case_name);

}  // namespace
}  // namespace qlora::quant
