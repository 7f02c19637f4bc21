// GPTQ's work on a block of columns, and codes in the words of its checkpoints and AWQ's.
#include <random>
#include <tuple>

#include "quant/pack_words_backend.h"
#include "quant/packed_layout_math.h"
#include "tests/kernels/back_end.h"
#include "tests/quant/gptq_case.h"

namespace qlora::quant {
namespace {

using namespace gptq_case;  // NOLINT: the problems of this file

class GptqKernel : public testing::KernelTest {
 protected:
  Result run(const Problem& p, int64_t begin, int64_t end) {
    Result r(p);
    r.errors.assign(p.rows * (end - begin), -1);
    auto weight = array(p.weight), factor = array(p.factor), column_weight = array(p.column_weight);
    auto column_group = array(p.column_group);
    auto scales = array(r.scales), errors = array(r.errors);
    auto zeros = array(r.zeros), codes = array(r.codes);
    auto bad_row = filled(1, r.bad_row);
    GridSearch search = p.search;
    search.column_weight = column_weight.data();
    GptqBlockArgs args{.weight = weight.data(),
                       .rows = p.rows,
                       .cols = p.cols,
                       .begin = begin,
                       .end = end,
                       .factor = factor.data(),
                       .column_group = column_group.data(),
                       .groups = p.groups(),
                       .group_size = p.group_size,
                       .fits = p.fits,
                       .search = search,
                       .scales = scales.data(),
                       .zeros = zeros.data(),
                       .codes = codes.data(),
                       .errors = errors.data(),
                       .first_bad_row = bad_row.data()};
    auto scratch = filled(std::max<int64_t>(1, gptq_scratch_size(args)), -3.0f);
    args.scratch = scratch.data();
    is_cuda() ? cuda::gptq_block(args) : cpu::gptq_block(args);
    r.scales = scales.values();
    r.zeros = zeros.values();
    r.codes = codes.values();
    r.errors = errors.values();
    r.bad_row = bad_row.values()[0];
    return r;
  }
};

TEST_P(GptqKernel, RoundsAsTheDefinitionSays) {
  for (const ScaleSearch kind : {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kGptq}) {
    for (const GridRule rule : {GridRule::kAsymmetric, GridRule::kSymmetric}) {
      // Groups inside the block, one group, a group longer than the block and the block after its
      // start.
      for (const auto& [cols, group_size, begin, end] :
           std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{
               {48, 16, 0, 48}, {33, 33, 0, 33}, {70, 70, 0, 40}, {70, 70, 40, 70}, {5, 1, 1, 4}}) {
        for (const int64_t rows : {1, 7}) {
          const Problem p = make_problem(rows, cols, group_size, {.rule = rule}, kind);
          expect_equal(run(p, begin, end), defined(p, begin, end));
        }
      }
    }
  }
}

TEST_P(GptqKernel, RoundsManyCandidatesAndColumns) {
  Problem p = make_problem(3, 130, 65, {.bits = 8}, ScaleSearch::kMse);
  p.search.steps = 70;  // more than a warp has lanes
  expect_equal(run(p, 0, 130), defined(p, 0, 130));
  p.search.kind = ScaleSearch::kGptq;
  p.search.steps = 35;
  expect_equal(run(p, 0, 130), defined(p, 0, 130));
}

TEST_P(GptqKernel, RowsThatSharedMemoryDoesNotHoldUseScratch) {
  const int64_t cols = kGptqSharedColumns + 9;
  const Problem p = make_problem(2, cols, cols, {}, ScaleSearch::kMse);
  expect_equal(run(p, 0, 3), defined(p, 0, 3));
}

TEST_P(GptqKernel, TakesGridsThatAreGivenForColumnsOfAnyGroup) {
  Problem p = make_problem(9, 40, 8, {}, ScaleSearch::kMinMax);
  p.fits = false;
  for (int64_t k = 0; k < p.cols; ++k) p.column_group[k] = static_cast<int32_t>(k * 3 % 5);
  expect_equal(run(p, 0, 40), defined(p, 0, 40));
  expect_equal(run(p, 7, 29), defined(p, 7, 29));
}

TEST_P(GptqKernel, ReportsGridsThatLeaveTheirType) {
  for (const float bad : {1e9f, std::numeric_limits<float>::infinity()}) {
    Problem p = make_problem(40, 32, 16, {}, ScaleSearch::kGptq);
    for (int64_t k = 0; k < 32; ++k) p.weight[35 * 32 + k] = bad;
    const int64_t row = run(p, 0, 32).bad_row;
    EXPECT_GE(row, 32);  // the CPU names the first row of a tile, which has at most 16
    EXPECT_LE(row, 35);
  }
}

TEST_P(GptqKernel, SearchesGridsOfRunsOfColumns) {
  for (const ScaleSearch kind : {ScaleSearch::kMinMax, ScaleSearch::kMse}) {
    for (const int64_t rows : {1, 9}) {
      const Problem p = make_problem(rows, 96, 32, {}, kind);
      auto weight = array(p.weight), column_weight = array(p.column_weight);
      auto scales = filled(rows * 3, -1.0f);
      auto zeros = filled(rows * 3, uint8_t{0xEE});
      auto bad_row = filled(1, rows);
      GridSearch search = p.search;
      search.column_weight = column_weight.data();
      const GridSearchArgs args{weight.data(), rows,          96,           32,
                                search,        scales.data(), zeros.data(), bad_row.data()};
      is_cuda() ? cuda::search_grids(args) : cpu::search_grids(args);
      EXPECT_EQ(bad_row.values()[0], rows);
      const auto got_scales = scales.values();
      const auto got_zeros = zeros.values();
      for (int64_t row = 0; row < rows; ++row) {
        const std::vector<float> w(p.weight.begin() + row * 96, p.weight.begin() + (row + 1) * 96);
        for (int64_t g = 0; g < 3; ++g) {
          const AffineGrid grid = best_grid(p, w, g * 32);
          ASSERT_EQ(got_scales[row * 3 + g], grid.scale);
          ASSERT_EQ(got_zeros[row * 3 + g], grid.zero);
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, GptqKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

class PackWordsKernel : public testing::KernelTest {
 protected:
  void expect(WordOrder order, int64_t rows, int64_t cols, int64_t bits) {
    SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", " << bits << " bits, order "
                                      << static_cast<int>(order));
    auto codes = testing::random_bytes(rows * cols, 3);
    for (uint8_t& code : codes) code &= static_cast<uint8_t>((1 << bits) - 1);
    const bool down = order == WordOrder::kDown;
    const int64_t stride = stream_words(down ? cols : rows, bits);
    std::vector<uint32_t> want(down ? stride * rows : stride * cols, 0);
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t k = 0; k < cols; ++k) {
        const uint8_t code = codes[n * cols + k];
        if (down) {
          write_stream(want.data() + n, rows, k, bits, code);
        } else {
          const int64_t place =
              order == WordOrder::kAwq ? n / 8 * 8 + awq_nibble(static_cast<int>(n % 8)) : n;
          write_stream(want.data() + k * stride, 1, place, bits, code);
        }
      }
    }
    auto in = array(codes);
    auto words = filled(std::ssize(want), 0xDEADBEEFu);
    const PackWordsArgs args{order, in.data(), rows, cols, bits, words.data()};
    is_cuda() ? cuda::pack_words(args) : cpu::pack_words(args);
    EXPECT_EQ(words.values(), want);
  }
};

TEST_P(PackWordsKernel, EveryOrderIsItsDefinition) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    expect(WordOrder::kDown, 70, 64, bits);
    expect(WordOrder::kDown, 270, 45, bits);  // the last words are not full
    expect(WordOrder::kAcross, 64, 5, bits);
    expect(WordOrder::kAcross, 45, 300, bits);
  }
  expect(WordOrder::kAwq, 64, 300, 4);
  expect(WordOrder::kAwq, 40, 3, 4);
}

INSTANTIATE_TEST_SUITE_P(, PackWordsKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
