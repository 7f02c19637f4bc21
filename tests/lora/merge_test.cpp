#include "lora/merge.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/support/errors.h"
#include "tests/support/simd_targets.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

struct Case {
  Tensor weight;  // [37, 53]: no multiple of a vector
  Adapter adapter;
};

Case make(torch::ScalarType dtype) {
  at::manual_seed(3);
  return {at::randn({37, 53}) * 0.1,
          {.a = at::randn({5, 53}), .b = at::randn({37, 5}), .scale = 1.7, .dtype = dtype}};
}

/// The definition, element by element.
Tensor by_definition(const Case& c) {
  const Tensor a = c.adapter.a.to(c.adapter.dtype).to(torch::kFloat32);
  const Tensor b = c.adapter.b.to(c.adapter.dtype).to(torch::kFloat32);
  Tensor out = c.weight.clone();
  for (int64_t n = 0; n < out.size(0); ++n) {
    for (int64_t k = 0; k < out.size(1); ++k) {
      float d = 0;
      for (int64_t r = 0; r < a.size(0); ++r) {
        d = std::fma(b.const_data_ptr<float>()[n * a.size(0) + r],
                     a.const_data_ptr<float>()[r * out.size(1) + k], d);
      }
      float& element = out.mutable_data_ptr<float>()[n * out.size(1) + k];
      element = std::fma(static_cast<float>(c.adapter.scale), d, element);
    }
  }
  return out;
}

class MergeTest : public ::testing::TestWithParam<torch::ScalarType> {};

TEST_P(MergeTest, EqualsTheDefinitionBitForBitOnEveryTargetAndThreadCount) {
  const Case c = make(GetParam());
  const Tensor expected = by_definition(c);
  for (const int64_t target : qlora::testing::simd_targets()) {
    const qlora::testing::UseSimdTarget use(target);
    for (const int threads : {1, 2}) {
      set_thread_count(threads);
      EXPECT_TRUE(at::equal(merged_weight(c.weight, c.adapter), expected))
          << "target " << target << ", " << threads << " threads";
    }
  }
}

TEST_P(MergeTest, IsCloseToTheMatrixProduct) {
  const Case c = make(GetParam());
  const Tensor a = c.adapter.a.to(c.adapter.dtype).to(torch::kFloat64);
  const Tensor b = c.adapter.b.to(c.adapter.dtype).to(torch::kFloat64);
  const Tensor expected = c.weight.to(torch::kFloat64) + 1.7 * at::matmul(b, a);
  // Six roundings of numbers below 32.
  EXPECT_LT((merged_weight(c.weight, c.adapter) - expected).abs().max().item<double>(),
            6 * 0x1p-19);
}

INSTANTIATE_TEST_SUITE_P(Types, MergeTest,
                         ::testing::Values(torch::kFloat32, torch::kFloat16, torch::kBFloat16),
                         [](const auto& info) { return std::string(c10::toString(info.param)); });

TEST(Merge, RefusesAnAdapterOfAnotherShape) {
  Case c = make(torch::kFloat32);
  c.adapter.a = at::randn({5, 52});
  EXPECT_ERROR(ShapeError, merged_weight(c.weight, c.adapter), "another base");
}

}  // namespace
}  // namespace qlora::lora
