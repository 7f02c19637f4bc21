#include "model/device_choice.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include "core/cuda/module.h"
#include "tests/support/errors.h"

namespace qlora::model {
namespace {

using testing::message_of;

bool has_driver() {
  return dlopen("libcuda.so.1", RTLD_LAZY) != nullptr;
}

TEST(DeviceChoice, TheCpuIsTakenWithoutAWord) {
  EXPECT_NO_THROW(check_device(DeviceChoice::kCpu));
  EXPECT_EQ(device_notice(DeviceChoice::kCpu), std::nullopt);
}

TEST(DeviceChoice, AutoTakesTheCpuAndSaysWhyInOneLine) {
  EXPECT_NO_THROW(check_device(DeviceChoice::kAuto));
  const auto text = device_notice(DeviceChoice::kAuto);
  ASSERT_TRUE(text.has_value());
  EXPECT_TRUE(text->starts_with("device: the CPU, because ")) << *text;
  EXPECT_EQ(text->find('\n'), std::string::npos) << *text;
  EXPECT_EQ(text->find('['), std::string::npos) << *text;
  EXPECT_FALSE(cuda::module_is_open()) << "opening costs 400 MB";
  if (!has_driver()) {
    EXPECT_SAYS(*text, "no NVIDIA driver");
  }
}

TEST(DeviceChoice, CudaIsRefusedWithTheReason) {
  if (has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  const auto text = message_of<DeviceError>([] { check_device(DeviceChoice::kCuda); });
  EXPECT_SAYS(text, "no NVIDIA driver");
  EXPECT_SAYS(text, "choose the device cpu");
  EXPECT_EQ(device_notice(DeviceChoice::kCuda), std::nullopt);
}

}  // namespace
}  // namespace qlora::model
