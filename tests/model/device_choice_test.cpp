#include "model/device_choice.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <string>

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
  const ChosenDevice chosen = choose_device(DeviceChoice::kCpu);
  EXPECT_EQ(chosen.device, torch::Device(torch::kCPU));
  EXPECT_EQ(chosen.notice, std::nullopt);
  EXPECT_FALSE(may_be_cuda(DeviceChoice::kCpu));
}

TEST(DeviceChoice, AutoTakesTheCpuAndSaysWhyInOneLine) {
  if (has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  EXPECT_NO_THROW(check_device(DeviceChoice::kAuto));
  EXPECT_FALSE(may_be_cuda(DeviceChoice::kAuto));
  const ChosenDevice chosen = choose_device(DeviceChoice::kAuto);
  EXPECT_EQ(chosen.device, torch::Device(torch::kCPU));
  ASSERT_TRUE(chosen.notice.has_value());
  const std::string& text = *chosen.notice;
  EXPECT_TRUE(text.starts_with("device: the CPU, because no NVIDIA driver")) << text;
  EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  EXPECT_EQ(text.find('['), std::string::npos) << text;
  EXPECT_FALSE(cuda::module_is_open()) << "opening costs 400 MB";
}

TEST(DeviceChoice, CudaIsRefusedWithTheReason) {
  if (has_driver()) GTEST_SKIP() << "a CUDA driver is there";
  for (const auto& refused :
       {message_of<DeviceError>([] { check_device(DeviceChoice::kCuda); }),
        message_of<DeviceError>([] { choose_device(DeviceChoice::kCuda); })}) {
    EXPECT_SAYS(refused, "no NVIDIA driver");
    EXPECT_SAYS(refused, "choose the device cpu");
  }
  EXPECT_TRUE(may_be_cuda(DeviceChoice::kCuda));
}

}  // namespace
}  // namespace qlora::model
