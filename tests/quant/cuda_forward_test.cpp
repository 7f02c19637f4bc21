// The program's side of namespace cuda on a machine without a driver. With one, tests of kernels
// elsewhere show that the same calls work.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "quant/blockwise8_backend.h"
#include "quant/fp8_backend.h"
#include "quant/nf4_backend.h"
#include "quant/packed_affine_backend.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

bool has_driver() {
  return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr;
}

template <class Call>
void expect_reason(const Call& call) {
  const std::string text = testing::message_of<DeviceError>(call);
  EXPECT_SAYS(text, "NVIDIA driver");
  EXPECT_SAYS(text, "device cpu");
}

TEST(CudaForward, EveryCallWithoutADriverSaysWhy) {
  if (has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  expect_reason([] { cuda::dequantize_nf4({}); });
  expect_reason([] { cuda::quantize_nf4({}); });
  expect_reason([] { cuda::mean({}); });
  expect_reason([] { cuda::quantize_blockwise8({}); });
  expect_reason([] { cuda::dequantize_blockwise8({}); });
  expect_reason([] { cuda::dequantize_packed({}); });
  expect_reason([] { cuda::dequantize_fp8({}); });
}

}  // namespace
}  // namespace qlora::quant
