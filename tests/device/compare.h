#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/device/emulated_torch.h"

namespace qlora::testing {

inline const torch::Device kDevice(torch::kCUDA, 0);

/// |got - want| / |want| of whole tensors, in double; NaN where one holds NaN.
inline double relative_error(const torch::Tensor& got, const torch::Tensor& want) {
  const auto wide = [](const torch::Tensor& t) { return t.detach().cpu().to(torch::kFloat64); };
  const double size = wide(want).norm().item<double>();
  return (wide(got) - wide(want)).norm().item<double>() / (size > 0 ? size : 1);
}

inline void expect_same(const torch::Tensor& got, const torch::Tensor& want) {
  ASSERT_EQ(got.scalar_type(), want.scalar_type());
  EXPECT_TRUE(got.detach().cpu().equal(want.detach().cpu()))
      << "off by " << relative_error(got, want);
}

/// Tests on tensors of the emulated device; streams run in a random order of the same seed.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { emulated_cuda_of_torch().set_seed(1); }
};

}  // namespace qlora::testing
