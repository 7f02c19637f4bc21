// Products that are shared out by rows, against libtorch's own.
#include "lora/product.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <tuple>

#include "core/parallel.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

/// Rows, columns, threads: on both sides of what is shared out, with a ragged last share.
class Product : public ::testing::TestWithParam<std::tuple<int64_t, int64_t, int>> {
 protected:
  void SetUp() override { at::manual_seed(5); }
  void TearDown() override { set_thread_count(1); }
};

TEST_P(Product, IsWithinTheErrorOfItsSums) {
  const auto [rows, cols, threads] = GetParam();
  constexpr int64_t kInner = 512;
  set_thread_count(threads);
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const double unit = dtype == torch::kBFloat16 ? 0x1p-8 : 0x1p-24;
    const Tensor x = at::randn({rows, kInner}).to(dtype).requires_grad_(true);
    const Tensor before = at::randn({rows, cols}).to(dtype);
    for (const Tensor& m :
         {at::randn({kInner, cols}).to(dtype), at::randn({cols, kInner}).to(dtype).t()}) {
      const Tensor wide = x.detach().to(torch::kFloat64), wide_m = m.to(torch::kFloat64);
      const Tensor exact = wide.mm(wide_m), sizes = wide.abs().mm(wide_m.abs());
      // The sum of K products in f32, and one rounding of the result.
      const auto worst = [&](const Tensor& y, const Tensor& expected, const Tensor& size) {
        const Tensor bound = size * (kInner + 1) * 0x1p-24 + expected.abs() * unit;
        return ((y.to(torch::kFloat64) - expected).abs() - bound).max().item<double>();
      };
      const Tensor y = product(x, m);
      EXPECT_LE(worst(y, exact, sizes), 0) << dtype;
      EXPECT_FALSE(y.requires_grad());
      Tensor sum = before.clone();
      add_product(sum, x, m);
      EXPECT_LE(
          worst(sum, exact + before.to(torch::kFloat64), sizes + before.abs().to(torch::kFloat64)),
          0)
          << dtype;
    }
  }
}

TEST_P(Product, IsTheSameEveryTime) {
  const auto [rows, cols, threads] = GetParam();
  set_thread_count(threads);
  const Tensor x = at::randn({rows, 512}).to(torch::kBFloat16);
  const Tensor m = at::randn({512, cols}).to(torch::kBFloat16);
  EXPECT_TRUE(product(x, m).equal(product(x, m)));
}

INSTANTIATE_TEST_SUITE_P(Shapes, Product,
                         ::testing::Combine(::testing::Values(7, 512, 1000, 1290),
                                            ::testing::Values(576, 1536),
                                            ::testing::Values(1, 2, 3)),
                         [](const auto& info) {
                           return fmt::format("{}x{}_{}_threads", std::get<0>(info.param),
                                              std::get<1>(info.param), std::get<2>(info.param));
                         });

}  // namespace
}  // namespace qlora::lora
