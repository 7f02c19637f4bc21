// The same tests on this machine's GPU.
#include <gtest/gtest.h>

#include <iostream>

#include "core/cuda/device.h"
#include "core/cuda/module.h"
#include "core/error.h"
#include "tests/device/torch_device.h"

namespace qlora::testing {

emulation::EmulatedDevice* open_torch_device() {
  cuda::open_module();
  return nullptr;
}

}  // namespace qlora::testing

int main(int argc, char** argv) {
  constexpr int kNoDevice = 77;  // what ctest counts as skipped
  ::testing::InitGoogleTest(&argc, argv);
  try {
    qlora::testing::open_torch_device();
  } catch (const qlora::DeviceError& error) {
    std::cerr << error.what() << '\n';
    return kNoDevice;
  }
  std::cout << qlora::cuda::device_info(0).name << '\n' << std::flush;
  return RUN_ALL_TESTS();
}
