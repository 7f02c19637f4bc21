// Sizes of the inputs' columns, against plain sums, on every instruction set.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/column_sizes_backend.h"
#include "tests/quant/cpu_case.h"

namespace qlora::quant {
namespace {

using namespace qlora::testing;  // the helpers of the tests

struct Sizes {
  std::vector<float> sum, top;
};

Sizes sizes_of(Numbers& x, FloatKind kind, int64_t rows, int64_t cols, int64_t stride) {
  Sizes sizes{std::vector<float>(cols, 0.5f), std::vector<float>(cols, 0.25f)};
  cpu::add_column_sizes({.x = x.data(),
                         .kind = kind,
                         .rows = rows,
                         .cols = cols,
                         .row_stride = stride,
                         .abs_sum = sizes.sum.data(),
                         .abs_max = sizes.top.data()});
  return sizes;
}

TEST(ColumnSizes, EqualPlainSumsBitForBitOnEveryTarget) {
  for (const FloatKind kind : kFloatKinds) {
    for (const int64_t cols : {1, 15, 64, 200}) {
      const int64_t rows = 37, stride = cols + 3;
      Numbers x(kind, normal_values(rows * stride, 5, 1));
      Sizes plain{std::vector<float>(cols, 0.5f), std::vector<float>(cols, 0.25f)};
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          const float size = std::abs(x.get(row * stride + col));
          plain.sum[col] += size;
          plain.top[col] = std::max(plain.top[col], size);
        }
      }
      for (const int64_t target : simd_targets()) {
        const UseSimdTarget use_target(target);
        for (const int threads : {1, 3}) {
          const UseThreads use(threads);
          const Sizes sizes = sizes_of(x, kind, rows, cols, stride);
          EXPECT_EQ(sizes.sum, plain.sum) << target << kind_name(kind) << cols;
          EXPECT_EQ(sizes.top, plain.top) << target << kind_name(kind) << cols;
        }
      }
    }
  }
}

TEST(ColumnSizes, KeepNotANumberInTheSum) {
  for (const int64_t at : {3, 65}) {
    std::vector<float> values(2 * 66, 1.0f);
    values[66 + at] = std::numeric_limits<float>::quiet_NaN();
    Numbers x(FloatKind::kBF16, values);
    const Sizes sizes = sizes_of(x, FloatKind::kBF16, 2, 66, 66);
    EXPECT_TRUE(std::isnan(sizes.sum[at]));
    EXPECT_EQ(sizes.sum[at - 1], 2.5f);
  }
}

}  // namespace
}  // namespace qlora::quant
