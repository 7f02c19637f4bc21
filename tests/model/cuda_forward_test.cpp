// The program's side of namespace cuda on a machine without a driver. With one, tests of kernels
// elsewhere show that the same calls work.
#include <gtest/gtest.h>

#include "model/activation_store_backend.h"
#include "model/cross_entropy_backend.h"
#include "model/rms_norm_backend.h"
#include "model/rope_backend.h"
#include "model/swiglu_backend.h"
#include "tests/support/without_driver.h"

namespace qlora::model {
namespace {

TEST(CudaForward, EveryCallWithoutADriverSaysWhy) {
  if (testing::has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  testing::expect_no_driver([] { cuda::cross_entropy({}); });
  testing::expect_no_driver([] { cuda::make_activation_store(); });
  testing::expect_no_driver([] { cuda::rms_norm({}); });
  testing::expect_no_driver([] { cuda::rms_norm_backward({}); });
  testing::expect_no_driver([] { cuda::rope({}); });
  testing::expect_no_driver([] { cuda::swiglu({}); });
  testing::expect_no_driver([] { cuda::swiglu_backward({}); });
}

}  // namespace
}  // namespace qlora::model
