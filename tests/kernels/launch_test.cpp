#include "core/cuda/launch.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "tests/support/errors.h"

namespace qlora::cuda {
namespace {

TEST(Launch, GridsHoldWhatCudaHolds) {
  EXPECT_EQ(grid_size(1, 256), 1u);
  EXPECT_EQ(grid_size(257, 256), 2u);
  EXPECT_EQ(grid_size(int64_t{INT32_MAX} * 256, 256), static_cast<unsigned>(INT32_MAX));
  EXPECT_ERROR(ValueError, grid_size(int64_t{INT32_MAX} * 256 + 1, 256), "2147483648 blocks");
  EXPECT_ERROR(ValueError, grid_size(0, 256), "needs 0 blocks");
  EXPECT_EQ(grid_rows(65535 * 4, 4), 65535u);
  EXPECT_ERROR(ValueError, grid_rows(65535 * 4 + 1, 4), "allowed [1, 65535]");
}

}  // namespace
}  // namespace qlora::cuda
