// The program's side of namespace cuda on a machine without a driver. With one, tests of kernels
// elsewhere show that the same calls work.
#include <gtest/gtest.h>

#include "tests/support/without_driver.h"
#include "trainer/device_update_backend.h"
#include "trainer/fused_update_backend.h"
#include "trainer/gradient_norm_backend.h"

namespace qlora::trainer {
namespace {

TEST(CudaForward, EveryCallWithoutADriverSaysWhy) {
  if (testing::has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  testing::expect_no_driver([] { cuda::adamw8({}); });
  testing::expect_no_driver([] { cuda::adamw32({}); });
  testing::expect_no_driver([] { cuda::gradient_norm({}); });
  testing::expect_no_driver([] { cuda::fused_adamw8({}); });
  testing::expect_no_driver([] { cuda::fused_adamw32({}); });
  testing::expect_no_driver([] { cuda::make_device_optimizer({}, DeviceStates::kPaged8bit, 0); });
}

}  // namespace
}  // namespace qlora::trainer
