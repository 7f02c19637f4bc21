#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

#include <cstdint>
#include <string>

#include "quant/affine.h"
#include "tests/quant/export_fixture.h"

namespace qlora::testing {

/// The first rows are what the reference decoder says, which rounds a product of f16 and an integer
/// once, as ours.
inline void expect_dequant(const torch::Tensor& decoded, const ExportFixture& fixture,
                           double tolerance = 0) {
  ASSERT_EQ(decoded.sizes(), torch::IntArrayRef({128, 256}));
  const double worst = (decoded.narrow(0, 0, 64) - fixture.dequant).abs().max().item<double>();
  EXPECT_LE(worst, tolerance);
}

/// Random codes and grids of every width, with zero points from 1 on.
inline quant::AffineTensor random_affine(int64_t rows, int64_t cols, int64_t bits,
                                         int64_t group_size, bool symmetric,
                                         quant::ScaleType type = quant::ScaleType::kF16) {
  const int64_t size = group_size == -1 ? cols : group_size, top = (1 << bits) - 1;
  quant::AffineTensor t;
  t.options = {.bits = bits, .group_size = group_size, .scale_type = type};
  t.codes = torch::randint(0, top + 1, {rows, cols}, torch::kUInt8);
  t.scales =
      (torch::rand({rows, cols / size}) + 0.01).to(quant::torch_type(type)).to(torch::kFloat32);
  t.zeros = symmetric ? torch::full({rows, cols / size}, top / 2 + 1, torch::kUInt8)
                      : torch::randint(1, top + 1, {rows, cols / size}, torch::kUInt8);
  return t;
}

inline void expect_same(const quant::AffineTensor& a, const quant::AffineTensor& b) {
  EXPECT_TRUE(torch::equal(a.codes, b.codes));
  EXPECT_TRUE(torch::equal(a.scales, b.scales));
  EXPECT_TRUE(torch::equal(a.zeros, b.zeros));
  ASSERT_EQ(a.group_of.defined(), b.group_of.defined());
  if (a.group_of.defined()) {
    EXPECT_TRUE(torch::equal(a.group_of, b.group_of));
  }
  EXPECT_EQ(a.options.scale_type, b.options.scale_type);
}

/// A file's tensors with one of them replaced.
inline quant::TensorMap damaged(quant::TensorMap tensors, const char* name,
                                const torch::Tensor& tensor) {
  tensors[name] = tensor;
  return tensors;
}

}  // namespace qlora::testing
