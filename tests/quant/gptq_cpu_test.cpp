#include <gtest/gtest.h>

#include <tuple>

#include "tests/quant/gptq_case.h"

namespace qlora::quant {
namespace {

using namespace gptq_case;  // NOLINT: the problems of this file

Result run(const Problem& p, int64_t begin, int64_t end) {
  Result r(p);
  r.errors.assign(p.rows * (end - begin), -1);
  GridSearch search = p.search;
  search.column_weight = p.column_weight.data();
  cpu::gptq_block({.weight = p.weight.data(),
                   .rows = p.rows,
                   .cols = p.cols,
                   .begin = begin,
                   .end = end,
                   .factor = p.factor.data(),
                   .column_group = p.column_group.data(),
                   .groups = p.groups(),
                   .group_size = p.group_size,
                   .fits = p.fits,
                   .search = search,
                   .scales = r.scales.data(),
                   .zeros = r.zeros.data(),
                   .codes = r.codes.data(),
                   .errors = r.errors.data(),
                   .first_bad_row = &r.bad_row});
  return r;
}

using Parameters = std::tuple<int64_t, int64_t, GridRule, ScaleSearch>;

/// Every instruction set x bits x rule x search against the definition, bit for bit.
class GptqCpu : public ::testing::TestWithParam<Parameters> {
 protected:
  int64_t target() const { return std::get<0>(GetParam()); }
  ScaleSearch kind() const { return std::get<3>(GetParam()); }
  AffineOptions affine(ScaleType type = ScaleType::kF16) const {
    return {.bits = std::get<1>(GetParam()), .rule = std::get<2>(GetParam()), .scale_type = type};
  }
};

TEST_P(GptqCpu, RoundsAsTheDefinitionSays) {
  const testing::UseSimdTarget use(target());
  for (const ScaleType type : {ScaleType::kF16, ScaleType::kF32}) {
    // Groups inside the block, one group, a group longer than the block and the block after its
    // start, blocks that end between registers.
    for (const auto& [cols, group_size, begin, end] :
         std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{{48, 16, 0, 48},
                                                                     {48, 16, 16, 48},
                                                                     {33, 33, 0, 33},
                                                                     {70, 70, 0, 40},
                                                                     {70, 70, 40, 70},
                                                                     {60, 20, 20, 40},
                                                                     {5, 1, 1, 4}}) {
      for (const int64_t rows : {1, 16, 37}) {
        const Problem p = make_problem(rows, cols, group_size, affine(type), kind());
        expect_equal(run(p, begin, end), defined(p, begin, end));
      }
    }
  }
}

TEST_P(GptqCpu, TakesGridsThatAreGivenForColumnsOfAnyGroup) {
  const testing::UseSimdTarget use(target());
  Problem p = make_problem(19, 40, 8, affine(), kind());
  p.fits = false;
  for (int64_t k = 0; k < p.cols; ++k) p.column_group[k] = static_cast<int32_t>(k * 3 % 5);
  expect_equal(run(p, 0, 40), defined(p, 0, 40));
  expect_equal(run(p, 7, 29), defined(p, 7, 29));
}

TEST_P(GptqCpu, TheThreadCountChangesNoBit) {
  const testing::UseSimdTarget use(target());
  const Problem p = make_problem(101, 32, 16, affine(), kind());
  const Result want = defined(p, 0, 32);
  for (const int threads : {1, 2, 3, 8}) {
    const testing::UseThreads with(threads);
    expect_equal(run(p, 0, 32), want);
  }
}

TEST_P(GptqCpu, ReportsGridsThatLeaveTheirType) {
  const testing::UseSimdTarget use(target());
  Problem p = make_problem(40, 32, 16, affine(), kind());
  for (int64_t k = 0; k < 32; ++k) p.weight[35 * 32 + k] = 1e9f;
  const int64_t bad = run(p, 0, 32).bad_row;
  EXPECT_GE(bad, 32);  // the first row of the tile, which has at most 16
  EXPECT_LE(bad, 35);
}

TEST_P(GptqCpu, SearchesGridsOfRunsOfColumns) {
  const testing::UseSimdTarget use(target());
  // Without a factor there is nothing that GPTQ could make good.
  const auto search_kind = kind() == ScaleSearch::kGptq ? ScaleSearch::kMse : kind();
  const Problem p = make_problem(21, 96, 24, affine(), search_kind);
  std::vector<float> scales(21 * 4);
  std::vector<uint8_t> zeros(21 * 4);
  int64_t bad = 21;
  GridSearch search = p.search;
  search.column_weight = p.column_weight.data();
  cpu::search_grids({p.weight.data(), 21, 96, 24, search, scales.data(), zeros.data(), &bad});
  EXPECT_EQ(bad, 21);
  for (int64_t row = 0; row < 21; ++row) {
    const std::vector<float> w(p.weight.begin() + row * 96, p.weight.begin() + (row + 1) * 96);
    for (int64_t g = 0; g < 4; ++g) {
      const AffineGrid grid = best_grid(p, w, g * 24);
      ASSERT_EQ(scales[row * 4 + g], grid.scale);
      ASSERT_EQ(zeros[row * 4 + g], grid.zero);
    }
  }
}

std::string case_name(const ::testing::TestParamInfo<Parameters>& info) {
  const auto [target, bits, rule, kind] = info.param;
  return std::string(hwy::TargetName(target)) + "_" + std::to_string(bits) + "_" +
         EnumNames<GridRule>::kNames[static_cast<int>(rule)].second + "_" +
         EnumNames<ScaleSearch>::kNames[static_cast<int>(kind)].second;
}

INSTANTIATE_TEST_SUITE_P(
    All, GptqCpu,
    ::testing::Combine(::testing::ValuesIn(testing::simd_targets()), ::testing::Values(2, 4, 8),
                       ::testing::Values(GridRule::kAsymmetric, GridRule::kSymmetric),
                       ::testing::Values(ScaleSearch::kMinMax, ScaleSearch::kMse,
                                         ScaleSearch::kGptq)),
    case_name);

TEST(GptqSearch, KeepsFromTheWholeRangeToTheNarrowest) {
  EXPECT_EQ(kept_range(0, 1, 0.5), 1);
  EXPECT_EQ(kept_range(0, 5, 0.5), 1);
  EXPECT_EQ(kept_range(2, 5, 0.5), 0.75f);
  EXPECT_EQ(kept_range(4, 5, 0.5), 0.5f);
}

}  // namespace
}  // namespace qlora::quant
