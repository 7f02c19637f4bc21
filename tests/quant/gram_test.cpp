// The Gram matrix of a linear's inputs, in products of 16-bit and of 32-bit matrices.
#include "quant/gram.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <tuple>

#include "core/error.h"
#include "core/parallel.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using torch::Tensor;
using namespace qlora::testing;  // the helpers of the tests

class Gram : public ::testing::TestWithParam<std::tuple<int64_t, int64_t, torch::ScalarType>> {
 protected:
  void SetUp() override { at::manual_seed(11); }
  void TearDown() override { set_thread_count(1); }
};

TEST_P(Gram, IsWithinTheErrorOfItsSum) {
  const auto [tokens, width, dtype] = GetParam();
  const Tensor x = at::randn({tokens, width}).to(dtype);
  const Tensor before = at::randn({width, width});
  const Tensor exact = x.to(torch::kFloat64);
  const Tensor expected = before.to(torch::kFloat64) + exact.t().mm(exact);
  // A sum of n numbers in f32 is off by at most n 2^-24 of the sum of their sizes.
  const Tensor bound = (exact.abs().t().mm(exact.abs()) + before.abs()) *
                       (static_cast<double>(tokens + 1) * 0x1p-24);
  for (const auto& add : {add_gram, add_gram_composed}) {
    const Tensor gram = before.clone();
    add(x, gram);
    const Tensor over = (gram.to(torch::kFloat64) - expected).abs() - bound;
    EXPECT_LE(over.triu().max().item<double>(), 0);
  }
}

TEST_P(Gram, IsTheSameForEveryThreadCount) {
  const auto [tokens, width, dtype] = GetParam();
  if (dtype != torch::kBFloat16) return;  // f32 products are libtorch's
  const Tensor x = at::randn({tokens, width}).to(dtype);
  Tensor first;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    const Tensor gram = at::zeros({width, width});
    add_gram(x, gram);
    if (!first.defined()) first = gram;
    EXPECT_TRUE(at::equal(gram.triu(), first.triu())) << threads;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Gram,
    ::testing::Combine(::testing::Values(1, 31, 256, 301), ::testing::Values(1, 5, 64, 200, 576),
                       ::testing::Values(torch::kFloat32, torch::kFloat16, torch::kBFloat16)),
    [](const auto& info) {
      return fmt::format("{}x{}_{}", std::get<0>(info.param), std::get<1>(info.param),
                         c10::toString(std::get<2>(info.param)));
    });

TEST(GramInputs, MayHaveAnyStrides) {
  at::manual_seed(3);
  const Tensor wide = at::randn({40, 96}).to(torch::kBFloat16);
  for (const Tensor& x : {wide.narrow(1, 8, 70), wide.t(), wide.narrow(0, 3, 20)}) {
    const Tensor gram = at::zeros({x.size(1), x.size(1)}), copied = at::zeros_like(gram);
    add_gram(x, gram);
    add_gram(x.contiguous(), copied);
    EXPECT_TRUE(at::allclose(gram.triu(), copied.triu(), 1e-5, 1e-4));
  }
}

TEST(GramInputs, NotANumberStaysVisible) {
  Tensor x = at::full({3, 70}, 1).to(torch::kBFloat16);
  x[1][66] = std::numeric_limits<float>::quiet_NaN();
  const Tensor gram = at::zeros({70, 70});
  add_gram(x, gram);
  EXPECT_TRUE(gram[5][66].isnan().item<bool>());
  EXPECT_EQ(gram[5][65].item<float>(), 3);
}

TEST(GramInputs, ShapesThatDoNotFitAreRefused) {
  for (const auto& add : {add_gram, add_gram_composed}) {
    EXPECT_ERROR(ShapeError, add(at::zeros({4, 8}), at::zeros({8, 9})), "[4, 8]");
    EXPECT_ERROR(ShapeError, add(at::zeros({8}), at::zeros({8, 8})), "[T, K] and [K, K]");
    EXPECT_ERROR(ShapeError, add(at::zeros({4, 8}), at::zeros({16, 8}).slice(0, 0, 16, 2)),
                 "Gram matrix");
  }
}

}  // namespace
}  // namespace qlora::quant
