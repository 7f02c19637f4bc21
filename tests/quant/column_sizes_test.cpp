#include "quant/column_sizes.h"

#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

TEST(AddColumnSizes, ReadsRowsOfAnyStride) {
  at::manual_seed(4);
  const torch::Tensor x = at::randn({9, 40}).narrow(1, 4, 30);
  const torch::Tensor sum = at::zeros({30}), top = at::zeros({30});
  add_column_sizes(x, sum, top);
  EXPECT_TRUE(torch::allclose(sum, x.abs().sum(0)));
  EXPECT_TRUE(torch::equal(top, x.abs().amax(0)));
}

TEST(AddColumnSizes, RefusesWhatDoesNotFit) {
  const torch::Tensor x = at::zeros({4, 8}), row = at::zeros({8});
  EXPECT_ERROR(ShapeError, add_column_sizes(x, at::zeros({7}), row), "[4, 8] and the sums");
  EXPECT_ERROR(ShapeError, add_column_sizes(x, row, at::zeros({9})), "[9]");
  EXPECT_ERROR(ShapeError, add_column_sizes(x.t(), at::zeros({4}), at::zeros({4})), "contiguous");
  EXPECT_ERROR(ValueError, add_column_sizes(x.to(torch::kInt32), row, row), "not f32");
}

}  // namespace
}  // namespace qlora::quant
