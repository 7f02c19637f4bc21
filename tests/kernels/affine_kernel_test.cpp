// Rounding to affine grids and to E4M3: what fake-quantization and the quantizers do.
#include <limits>

#include "quant/affine_backend.h"
#include "quant/affine_math.h"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"
#include "tests/kernels/back_end.h"

namespace qlora::quant {
namespace {

constexpr int64_t kNoBadRow = INT64_MAX;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// A weight and what rounding it has to give, element by element from affine_math.h.
struct Rounded {
  std::vector<float> scales;
  std::vector<uint8_t> zeros, codes;
  std::vector<float> values;
};

int64_t group_at(const std::vector<int32_t>& group_of, int64_t k, int64_t group_size) {
  return group_of.empty() ? k / group_size : group_of[k];
}

Rounded fitted(const std::vector<float>& weight, int64_t rows, int64_t cols, int64_t group_size,
               const AffineOptions& options) {
  Rounded r;
  for (int64_t first = 0; first < rows * cols; first += group_size) {
    const auto [low, high] =
        std::minmax_element(weight.begin() + first, weight.begin() + first + group_size);
    const AffineGrid grid = affine_grid(*low, *high, options);
    r.scales.push_back(grid.scale);
    r.zeros.push_back(static_cast<uint8_t>(grid.zero));
    for (int64_t i = first; i < first + group_size; ++i) {
      r.codes.push_back(affine_code(weight[i], grid, options.bits));
      r.values.push_back(affine_value(r.codes.back(), grid));
    }
  }
  return r;
}

/// Which outputs a call asks for.
struct Wanted {
  bool grids, codes, values;
};

class AffineKernel : public testing::KernelTest {
 protected:
  void fit(const AffineArgs& a) const {
    is_cuda() ? cuda::affine_fit_and_round(a) : cpu::affine_fit_and_round(a);
  }

  void expect_fit(int64_t rows, int64_t cols, int64_t group_size, const AffineOptions& options,
                  Wanted wanted, int64_t offset = 0) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << cols << " by " << group_size << ", bits "
                                      << options.bits << ", offset " << offset);
    auto weight = testing::normal_values(rows * cols + offset, 31 + static_cast<uint32_t>(cols));
    std::fill_n(weight.begin() + offset, group_size, 0.0f);  // a group of zeros
    const std::vector<float> used(weight.begin() + offset, weight.end());
    const Rounded want = fitted(used, rows, cols, group_size, options);
    auto in = array(weight);
    auto scales = filled(std::ssize(want.scales), -1.0f), values = filled(rows * cols, -7.0f);
    auto zeros = filled(std::ssize(want.zeros), uint8_t{0xEE});
    auto codes = filled(rows * cols, uint8_t{0xEE});
    auto bad_row = filled(1, kNoBadRow);
    fit({.weight = in.data() + offset,
         .rows = rows,
         .cols = cols,
         .group_size = group_size,
         .groups = cols / group_size,
         .group_of = nullptr,
         .options = options,
         .scales = wanted.grids ? scales.data() : nullptr,
         .zeros = wanted.grids ? zeros.data() : nullptr,
         .codes = wanted.codes ? codes.data() : nullptr,
         .values = wanted.values ? values.data() : nullptr,
         .first_bad_row = bad_row.data()});
    if (wanted.grids) {
      EXPECT_EQ(scales.values(), want.scales);
      EXPECT_EQ(zeros.values(), want.zeros);
    }
    if (wanted.codes) {
      EXPECT_EQ(codes.values(), want.codes);
    }
    if (wanted.values) {
      EXPECT_EQ(values.values(), want.values);
    }
    EXPECT_EQ(bad_row.values()[0], kNoBadRow);
  }
};

TEST_P(AffineKernel, FittingAndRoundingAreTheMath) {
  for (const GridRule rule :
       {GridRule::kAsymmetric, GridRule::kSymmetric, GridRule::kSymmetricFull}) {
    for (const int64_t bits : {2, 3, 4, 8}) {
      expect_fit(7, 128, 32, {.bits = bits, .rule = rule}, {true, true, true});
    }
  }
}

TEST_P(AffineKernel, GroupsOfAnySizeAtAnyPlace) {
  const AffineOptions options{.scale_type = ScaleType::kBF16};
  expect_fit(3, 512, 512, options, {true, true, true});    // the largest of a warp
  expect_fit(3, 1040, 520, options, {true, true, true});   // of a block
  expect_fit(2, 1099, 1099, options, {true, true, true});  // the same, ragged
  expect_fit(5, 99, 33, options, {true, true, true});      // ragged runs
  expect_fit(4, 64, 64, options, {true, true, true}, 1);   // nothing is aligned
  expect_fit(1, 1, 1, options, {true, true, true});
}

TEST_P(AffineKernel, OutputsMayBeMissing) {
  const AffineOptions options{.scale_type = ScaleType::kF32};
  expect_fit(9, 64, 32, options, {false, false, true});
  expect_fit(9, 64, 32, options, {true, false, false});
  expect_fit(9, 640, 640, options, {false, true, false});
}

TEST_P(AffineKernel, GridsAloneAreThoseOfFitting) {
  constexpr int64_t kRows = 6, kCols = 96, kGroup = 48;
  const AffineOptions options{.bits = 8, .rule = GridRule::kSymmetric};
  const auto weight = testing::normal_values(kRows * kCols, 12);
  const Rounded want = fitted(weight, kRows, kCols, kGroup, options);
  auto in = array(weight);
  auto scales = filled(12, -1.0f);
  auto zeros = filled(12, uint8_t{0xEE});
  auto bad_row = filled(1, kNoBadRow);
  const AffineArgs args{.weight = in.data(),
                        .rows = kRows,
                        .cols = kCols,
                        .group_size = kGroup,
                        .groups = 2,
                        .group_of = nullptr,
                        .options = options,
                        .scales = scales.data(),
                        .zeros = zeros.data(),
                        .codes = nullptr,
                        .values = nullptr,
                        .first_bad_row = bad_row.data()};
  is_cuda() ? cuda::affine_grids(args) : cpu::affine_grids(args);
  EXPECT_EQ(scales.values(), want.scales);
  EXPECT_EQ(zeros.values(), want.zeros);
}

TEST_P(AffineKernel, ARowThatIsNotFiniteIsFound) {
  constexpr int64_t kRows = 40, kCols = 64;
  for (const int64_t group_size : {int64_t{32}, kCols}) {
    for (const float bad : {kNaN, -kNaN, HUGE_VALF, -HUGE_VALF, 1e38f}) {  // the last leaves F16
      auto weight = testing::normal_values(kRows * kCols, 5);
      weight[17 * kCols + 40] = bad;
      weight[39 * kCols] = bad;
      auto in = array(weight);
      auto values = filled(kRows * kCols, -7.0f);
      auto bad_row = filled(1, kNoBadRow);
      fit({.weight = in.data(),
           .rows = kRows,
           .cols = kCols,
           .group_size = group_size,
           .groups = kCols / group_size,
           .group_of = nullptr,
           .options = {},
           .scales = nullptr,
           .zeros = nullptr,
           .codes = nullptr,
           .values = values.data(),
           .first_bad_row = bad_row.data()});
      EXPECT_EQ(bad_row.values()[0], 17) << bad;
    }
  }
}

TEST_P(AffineKernel, RoundingToGridsThatAreGiven) {
  for (const int64_t cols : {64, 61, 2050}) {
    for (const bool is_ordered : {false, true}) {
      if (!is_ordered && cols % 2 != 0) continue;  // runs of columns are whole
      const int64_t rows = 5, groups = 2, group_size = (cols + 1) / 2;
      const auto weight = testing::normal_values(rows * cols, static_cast<uint32_t>(cols));
      auto scales = testing::normal_values(rows * groups, 8, 0.003f);
      for (float& s : scales) s = std::abs(s) + 0.001f;
      const auto zeros = std::vector<uint8_t>{3, 8, 0, 15, 7, 7, 1, 2, 9, 4};
      std::vector<int32_t> group_of;
      for (int64_t k = 0; is_ordered && k < cols; ++k) group_of.push_back(k % 3 == 0 ? 1 : 0);
      Rounded want;
      for (int64_t i = 0; i < rows * cols; ++i) {
        const int64_t at = i / cols * groups + group_at(group_of, i % cols, group_size);
        const AffineGrid grid{scales[at], zeros[at]};
        want.codes.push_back(affine_code(weight[i], grid, 4));
        want.values.push_back(affine_value(want.codes.back(), grid));
      }
      auto in = array(weight), grid_scales = array(scales), values = filled(rows * cols, -7.0f);
      auto grid_zeros = array(zeros), codes = filled(rows * cols, uint8_t{0xEE});
      auto order = array(is_ordered ? group_of : std::vector<int32_t>{0});
      AffineArgs args{.weight = in.data(),
                      .rows = rows,
                      .cols = cols,
                      .group_size = group_size,
                      .groups = groups,
                      .group_of = is_ordered ? order.data() : nullptr,
                      .options = {},
                      .scales = grid_scales.data(),
                      .zeros = grid_zeros.data(),
                      .codes = codes.data(),
                      .values = values.data(),
                      .first_bad_row = nullptr};
      is_cuda() ? cuda::affine_round(args) : cpu::affine_round(args);
      EXPECT_EQ(codes.values(), want.codes) << cols;
      EXPECT_EQ(values.values(), want.values) << cols;
      auto decoded = filled(rows * cols, -7.0f);
      args.values = decoded.data();
      is_cuda() ? cuda::affine_values(args) : cpu::affine_values(args);
      EXPECT_EQ(decoded.values(), want.values) << cols;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, AffineKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

class Fp8QuantKernel : public testing::KernelTest {
 protected:
  void quantize(const Fp8QuantArgs& a) const {
    is_cuda() ? cuda::quantize_fp8(a) : cpu::quantize_fp8(a);
  }
  int64_t bad_row_of(const std::vector<float>& weight, int64_t rows, int64_t cols, bool per_row,
                     ScaleType type) {
    auto in = array(weight), scales = filled(rows, -1.0f), values = filled(rows * cols, -7.0f);
    auto bad_row = filled(1, kNoBadRow);
    quantize({in.data(), rows, cols, per_row, type, scales.data(), nullptr, values.data(),
              bad_row.data()});
    return bad_row.values()[0];
  }
};

TEST_P(Fp8QuantKernel, ScalesCodesAndValuesAreTheMath) {
  for (const bool per_row : {true, false}) {
    for (const ScaleType type : {ScaleType::kF32, ScaleType::kBF16, ScaleType::kF16}) {
      for (const int64_t cols : {1, 64, 65, 1300}) {
        constexpr int64_t kRows = 5;
        auto weight = testing::normal_values(kRows * cols, static_cast<uint32_t>(cols), 3.0f);
        std::fill_n(weight.begin() + cols, cols, 0.0f);  // a row of zeros
        std::vector<uint32_t> most(kRows, 0);
        for (int64_t i = 0; i < kRows * cols; ++i) {
          auto& row_most = most[per_row ? i / cols : 0];
          row_most = std::max(row_most, float_bits(std::abs(weight[i])));
        }
        std::vector<float> want_scales, want_values;
        std::vector<uint8_t> want_codes;
        for (int64_t n = 0; n < (per_row ? kRows : 1); ++n) {
          want_scales.push_back(fp8_scale(most[n], type));
        }
        for (int64_t i = 0; i < kRows * cols; ++i) {
          const float scale = want_scales[per_row ? i / cols : 0];
          want_codes.push_back(float_to_fp8(weight[i] / scale));
          want_values.push_back(fp8_to_float(want_codes.back()) * scale);
        }
        auto in = array(weight), scales = filled(std::ssize(want_scales), -1.0f);
        auto values = filled(kRows * cols, -7.0f);
        auto codes = filled(kRows * cols, uint8_t{0xEE});
        auto bad_row = filled(1, kNoBadRow);
        quantize({in.data(), kRows, cols, per_row, type, scales.data(), codes.data(), values.data(),
                  bad_row.data()});
        EXPECT_EQ(scales.values(), want_scales) << cols;
        EXPECT_EQ(codes.values(), want_codes) << cols;
        EXPECT_EQ(values.values(), want_values) << cols;
        EXPECT_EQ(bad_row.values()[0], kNoBadRow);
      }
    }
  }
}

TEST_P(Fp8QuantKernel, ARowWithoutAFiniteScaleIsFound) {
  for (const bool per_row : {true, false}) {
    for (const float bad : {kNaN, HUGE_VALF, -HUGE_VALF, 3e7f}) {  // the last leaves F16
      auto weight = testing::normal_values(9 * 70, 4);
      weight[6 * 70 + 69] = bad;
      EXPECT_EQ(bad_row_of(weight, 9, 70, per_row, ScaleType::kF16), 6) << bad;
    }
    const auto weight = testing::normal_values(9 * 70, 4);
    EXPECT_EQ(bad_row_of(weight, 9, 70, per_row, ScaleType::kF16), kNoBadRow);
  }
}

INSTANTIATE_TEST_SUITE_P(, Fp8QuantKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
