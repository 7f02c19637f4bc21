// The program's side of namespace cuda on a machine without a driver. With one, tests of kernels
// elsewhere show that the same calls work.
#include <gtest/gtest.h>

#include "lora/dropout_backend.h"
#include "lora/lora_sum_backend.h"
#include "lora/merge_backend.h"
#include "tests/support/without_driver.h"

namespace qlora::lora {
namespace {

TEST(CudaForward, EveryCallWithoutADriverSaysWhy) {
  if (testing::has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  testing::expect_no_driver([] { cuda::dropout({}); });
  testing::expect_no_driver([] { cuda::lora_sum({}); });
  testing::expect_no_driver([] { cuda::merge({}); });
}

}  // namespace
}  // namespace qlora::lora
