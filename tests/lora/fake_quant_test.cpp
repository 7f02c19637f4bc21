// What training on a grid computes: the weight that ships, and gradients straight through.
#include "lora/fake_quant.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "lora/lora_linear.h"
#include "lora/merge.h"
#include "quant/affine.h"
#include "quant/fp8.h"
#include "quant/nf4.h"
#include "tests/support/errors.h"

namespace qlora::lora {
namespace {

using torch::Tensor;
using namespace qlora::testing;  // the helpers of the tests

constexpr int64_t kRows = 300, kCols = 192, kRank = 5;

Adapter make_adapter(torch::ScalarType dtype, double size = 0.1) {
  return {.a = (at::randn({kRank, kCols}) * size).requires_grad_(true),
          .b = (at::randn({kRows, kRank}) * size).requires_grad_(true),
          .alpha = 10,
          .scale = 2,
          .dtype = dtype};
}

struct GridCase {
  std::string name;
  WeightGrid grid;
};

quant::AffineOptions affine(int64_t bits, int64_t group_size, quant::GridRule rule,
                            int64_t least_zero = 0) {
  return {.bits = bits, .group_size = group_size, .rule = rule, .least_zero = least_zero};
}

LinearGrid on(const WeightGrid& weight) {
  return {.weight = weight};
}

const std::vector<GridCase> kGrids = {
    {"awq4", affine(4, 64, quant::GridRule::kAsymmetric)},
    {"gptq4", affine(4, 64, quant::GridRule::kAsymmetric, 1)},
    {"gptq4_symmetric", affine(4, 32, quant::GridRule::kSymmetricFull)},
    {"int3", affine(3, 96, quant::GridRule::kAsymmetric)},
    {"int8_rows", affine(8, -1, quant::GridRule::kSymmetric)},
    {"fp8", Fp8Grid{}}};

class FakeQuant : public ::testing::TestWithParam<GridCase> {
 protected:
  void SetUp() override { at::manual_seed(7); }
  void TearDown() override { set_thread_count(1); }
};

TEST_P(FakeQuant, EqualsTheCompositionBitForBitInEveryFormAndThreadCount) {
  const Tensor w = at::randn({kRows, kCols}) * 0.2;
  const Adapter adapter = make_adapter(torch::kFloat16);
  const std::vector<std::pair<const char*, FrozenWeight>> weights = {
      {"f32", FrozenWeight(w)},
      {"bf16", FrozenWeight(w.to(torch::kBFloat16))},
      {"f16", FrozenWeight(w.to(torch::kFloat16))},
      {"transposed", FrozenWeight(w.t().contiguous().t())},
      {"nf4", FrozenWeight(quant::quantize_nf4(w))}};
  for (const auto& [form, weight] : weights) {
    for (const Adapter* beside : {&adapter, static_cast<const Adapter*>(nullptr)}) {
      for (const auto dtype : {torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
        const Tensor expected =
            fake_quantized_composed(weight, beside, on(GetParam().grid), dtype).clone();
        for (const int threads : {1, 2, 3}) {
          set_thread_count(threads);
          EXPECT_TRUE(
              at::equal(fake_quantized(weight, beside, on(GetParam().grid), dtype), expected))
              << form << (beside ? " with" : " without") << " adapter, " << dtype;
        }
      }
    }
  }
}

TEST_P(FakeQuant, IsWhatTheExporterMakesOfTheMergedWeight) {
  const FrozenWeight weight(quant::quantize_nf4(at::randn({kRows, kCols}) * 0.2));
  const Adapter adapter = make_adapter(torch::kFloat16);
  const Tensor merged = merged_weight(weight.dense_copy(torch::kFloat32), adapter);
  Tensor shipped;
  if (const auto* options = std::get_if<quant::AffineOptions>(&GetParam().grid)) {
    shipped = quant::dequantize_affine(quant::quantize_affine(merged, *options));
  } else {
    shipped = quant::dequantize_fp8(quant::quantize_fp8(
        merged, quant::Fp8Scaling::kRow, std::get<Fp8Grid>(GetParam().grid).scale_type));
  }
  EXPECT_TRUE(
      at::equal(fake_quantized(weight, &adapter, on(GetParam().grid), torch::kFloat32), shipped));
  EXPECT_FALSE(at::equal(shipped, merged));
}

TEST_P(FakeQuant, TheLinearComputesWithItAndPassesGradientsStraightThrough) {
  LoraLinear linear("layer", FrozenWeight(quant::quantize_nf4(at::randn({kRows, kCols}) * 0.2)),
                    at::randn({kRows}));
  Adapter adapter = make_adapter(torch::kFloat32);
  adapter.dropout = 0.5;  // has no place here
  linear.set_adapter(adapter);
  linear.set_grid(on(GetParam().grid));
  Tensor x = at::randn({9, kCols}).requires_grad_(true);
  const Tensor dy = at::randn({9, kRows});
  const Tensor y = linear.forward(x, torch::kFloat32, {.training = true, .seed = 1});
  (y * dy).sum().backward();

  // The surrogate: rounding added as a constant, so that its derivative is one.
  const Tensor base = linear.weight().dense_copy(torch::kFloat32);
  const Tensor q =
      fake_quantized_composed(linear.weight(), &adapter, on(GetParam().grid), torch::kFloat32);
  Tensor x2 = x.detach().clone().requires_grad_(true);
  Tensor a = adapter.a.detach().clone().requires_grad_(true);
  Tensor b = adapter.b.detach().clone().requires_grad_(true);
  const Tensor merged = base + 2 * at::matmul(b, a);
  const Tensor surrogate = merged + (q - merged).detach();
  const Tensor expected = at::matmul(x2, surrogate.t()) + linear.bias();
  (expected * dy).sum().backward();

  const auto relative = [](const Tensor& actual, const Tensor& wanted) {
    return ((actual - wanted).norm() / wanted.norm()).item<double>();
  };
  EXPECT_LT(relative(y, expected), 2e-6);
  EXPECT_LT(relative(x.grad(), x2.grad()), 2e-6);
  EXPECT_LT(relative(adapter.a.grad(), a.grad()), 2e-6);
  EXPECT_LT(relative(adapter.b.grad(), b.grad()), 2e-6);
}

TEST_P(FakeQuant, GradientsEqualFiniteDifferencesOfTheSurrogate) {
  // f(A, B) = Σ dy ∘ (x·(W + s·B·A + c)ᵀ), c being what rounding adds where A and B stand.
  at::manual_seed(3);
  LoraLinear linear("layer", FrozenWeight(at::randn({kRows, kCols}) * 0.2));
  const Adapter adapter = make_adapter(torch::kFloat32);
  linear.set_adapter(adapter);
  linear.set_grid(on(GetParam().grid));
  const Tensor x = at::randn({4, kCols}), dy = at::randn({4, kRows});
  (linear.forward(x, torch::kFloat32, {}) * dy).sum().backward();
  const Tensor q =
      fake_quantized_composed(linear.weight(), &adapter, on(GetParam().grid), torch::kFloat32);
  const auto f64 = [](const Tensor& t) { return t.detach().to(torch::kFloat64); };
  const Tensor w = f64(linear.weight().as<Tensor>());
  const Tensor a0 = f64(adapter.a), b0 = f64(adapter.b);
  const Tensor c = f64(q) - (w + 2 * at::matmul(b0, a0));
  const auto value = [&](const Tensor& a, const Tensor& b) {
    const Tensor weight = w + 2 * at::matmul(b, a) + c;
    return (at::matmul(f64(x), weight.t()) * f64(dy)).sum().item<double>();
  };
  constexpr double kStep = 1e-4;
  const auto expect_slope = [&](const Tensor& at_point, const Tensor& gradient, auto&& evaluate) {
    for (const int64_t i : {int64_t{0}, at_point.numel() / 2, at_point.numel() - 1}) {
      Tensor up = at_point.clone(), down = at_point.clone();
      up.view(-1)[i] += kStep;
      down.view(-1)[i] -= kStep;
      const double slope = (evaluate(up) - evaluate(down)) / (2 * kStep);
      EXPECT_NEAR(gradient.view(-1)[i].template item<double>(), slope,
                  1e-4 * (1 + std::abs(slope)));
    }
  };
  expect_slope(a0, adapter.a.grad(), [&](const Tensor& a) { return value(a, b0); });
  expect_slope(b0, adapter.b.grad(), [&](const Tensor& b) { return value(a0, b); });
}

INSTANTIATE_TEST_SUITE_P(Grids, FakeQuant, ::testing::ValuesIn(kGrids),
                         [](const auto& info) { return info.param.name; });

TEST(FakeQuantLinear, WithoutAdapterRoundsTheBaseAlone) {
  at::manual_seed(5);
  LoraLinear linear("layer", FrozenWeight(at::randn({kRows, kCols})));
  linear.set_grid(on(kGrids[0].grid));
  Tensor x = at::randn({3, kCols}).requires_grad_(true);
  const Tensor y = linear.forward(x, torch::kFloat32, {});
  const Tensor q =
      fake_quantized_composed(linear.weight(), nullptr, on(kGrids[0].grid), torch::kFloat32);
  EXPECT_TRUE(at::allclose(y, at::matmul(x, q.t()), 1e-6, 1e-5));
  y.sum().backward();
  EXPECT_TRUE(at::allclose(x.grad(), q.sum(0).expand({3, kCols}), 1e-5, 1e-4));
  linear.set_grid({});
  EXPECT_TRUE(at::allclose(linear.forward(x, torch::kFloat32, {}),
                           at::matmul(x, linear.weight().as<Tensor>().t()), 1e-6, 1e-5));
}

TEST(FakeQuantRefusals, SayWhatIsWrong) {
  const Tensor w = at::randn({64, 64});
  Tensor broken = w.clone();
  broken[37][5] = std::numeric_limits<float>::infinity();
  const LinearGrid grid = on(affine(4, 32, quant::GridRule::kAsymmetric));
  EXPECT_ERROR(ValueError, fake_quantized(FrozenWeight(broken), nullptr, grid, torch::kFloat32),
               "row 37");
  EXPECT_ERROR(
      ValueError,
      fake_quantized(FrozenWeight(at::full({64, 64}, 1e9)), nullptr, grid, torch::kFloat32),
      "not finite");  // the scale leaves FP16
  EXPECT_ERROR(ShapeError,
               fake_quantized(FrozenWeight(w), nullptr,
                              on(affine(4, 48, quant::GridRule::kAsymmetric)), torch::kFloat32),
               "48 does not divide");
  const FrozenWeight fp8(quant::quantize_fp8(w, quant::Fp8Scaling::kRow, quant::ScaleType::kBF16));
  EXPECT_ERROR(ConfigError, fake_quantized(fp8, nullptr, grid, torch::kFloat32),
               "quantized in another form");
}

}  // namespace
}  // namespace qlora::lora
