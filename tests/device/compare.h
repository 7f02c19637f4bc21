#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/device/torch_device.h"

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

inline constexpr torch::ScalarType kTypes[] = {torch::kFloat32, torch::kFloat16, torch::kBFloat16};

/// Relative error of some roundings of one operation, in the type's unit; `units` of a half.
inline double rounding_bound(torch::ScalarType dtype, int units) {
  if (dtype == torch::kFloat32) return 1e-6;
  return units * (dtype == torch::kFloat16 ? 1e-3 : 8e-3);
}

/// Tests on tensors of the device; where it is emulated, streams run in a random order of one seed.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { set_order(1); }
};

}  // namespace qlora::testing
