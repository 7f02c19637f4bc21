#include "lora/lora_linear.h"

#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/error.h"
#include "quant/nf4.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

struct Case {
  LoraLinear linear;
  Tensor weight, bias;  // what the linear computes with, dequantized
};

Case make(bool quantized, bool adapted, double dropout = 0) {
  at::manual_seed(11);
  const Tensor w = at::randn({24, 20}) * 0.2, bias = at::randn({24});
  FrozenWeight weight = quantized ? FrozenWeight(quant::quantize_nf4(w)) : FrozenWeight(w);
  const Tensor used = weight.dense_copy(torch::kFloat32);
  Case c{LoraLinear("layer.q_proj", std::move(weight), bias), used, bias};
  if (adapted) {
    c.linear.set_adapter({.a = at::randn({3, 20}).requires_grad_(true),
                          .b = at::randn({24, 3}).requires_grad_(true),
                          .alpha = 6,
                          .scale = 2,
                          .dropout = dropout,
                          .dtype = torch::kFloat32});
  }
  return c;
}

double relative(const Tensor& actual, const Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

/// The plain composition of torch's own ops: the oracle.
Tensor composed(const Case& c, const Tensor& x, const Tensor& dropped) {
  Tensor y = at::matmul(x, c.weight.t()) + c.bias;
  if (!c.linear.adapter()) return y;
  const auto& adapter = *c.linear.adapter();
  return y + adapter.scale * at::matmul(at::matmul(dropped, adapter.a.t()), adapter.b.t());
}

class LoraLinearTest : public ::testing::TestWithParam<std::tuple<bool, bool, bool>> {};

TEST_P(LoraLinearTest, ForwardAndBackwardEqualTheComposition) {
  const auto [quantized, adapted, dropping] = GetParam();
  const Case c = make(quantized, adapted, dropping ? 0.4 : 0);
  const DropoutKey key{.training = true, .seed = 5, .draw = 1};
  Tensor x = at::randn({9, 20}).requires_grad_(true), x2 = x.detach().clone().requires_grad_(true);
  const Tensor dy = at::randn({9, 24});

  const Tensor y = c.linear.forward(x, torch::kFloat32, key);
  (y * dy).sum().backward();
  Tensor da, db;
  if (adapted) {
    da = c.linear.adapter()->a.grad().clone();
    db = c.linear.adapter()->b.grad().clone();
    c.linear.adapter()->a.mutable_grad().reset();
    c.linear.adapter()->b.mutable_grad().reset();
  }
  const Tensor mask = dropout(at::ones_like(x2), 0.4, key, dropout_stream("layer.q_proj"));
  const Tensor expected = composed(c, x2, dropping ? x2 * mask : x2);
  (expected * dy).sum().backward();

  EXPECT_LT(relative(y, expected), 1e-6);
  EXPECT_LT(relative(x.grad(), x2.grad()), 1e-6);
  if (adapted) {
    EXPECT_LT(relative(da, c.linear.adapter()->a.grad()), 1e-6);
    EXPECT_LT(relative(db, c.linear.adapter()->b.grad()), 1e-6);
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, LoraLinearTest,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "nf4" : "dense") +
                                  (std::get<1>(info.param) ? "_adapter" : "_frozen") +
                                  (std::get<2>(info.param) ? "_dropout" : "");
                         });

TEST(LoraLinear, EvaluationDropsNothing) {
  const Case c = make(false, true, 0.9);
  const Tensor x = at::randn({9, 20});
  EXPECT_LT(relative(c.linear.forward(x, torch::kFloat32, {.training = false}), composed(c, x, x)),
            1e-6);
}

TEST(LoraLinear, MastersAreRoundedToTheirTypeInTheForwardOnly) {
  Case c = make(false, true);
  Adapter adapter = *c.linear.adapter();
  const Tensor a_before = adapter.a.detach().clone();
  adapter.dtype = torch::kFloat16;
  c.linear.set_adapter(adapter);
  const Tensor x = at::randn({4, 20});
  const Tensor y = c.linear.forward(x, torch::kFloat32, {});
  const Tensor rounded_a = adapter.a.to(torch::kFloat16).to(torch::kFloat32);
  const Tensor rounded_b = adapter.b.to(torch::kFloat16).to(torch::kFloat32);
  const Tensor expected = at::matmul(x, c.weight.t()) + c.bias +
                          2 * at::matmul(at::matmul(x, rounded_a.t()), rounded_b.t());
  EXPECT_LT(relative(y, expected), 1e-6);
  EXPECT_TRUE(c.linear.adapter()->a.equal(a_before));
}

TEST(LoraLinear, TheSumOfBaseAndAdapterIsFp32AlsoOverBf16Products) {
  // Base 256 and adapter 0.5: their sum is lost in BF16 (step 2 there) and kept in FP32.
  LoraLinear linear("x", FrozenWeight(at::full({1, 1}, 256.0)));
  linear.set_adapter({.a = at::full({1, 1}, 1.0).requires_grad_(true),
                      .b = at::full({1, 1}, 0.5).requires_grad_(true),
                      .alpha = 1,
                      .scale = 1});
  const Tensor y = linear.forward(at::ones({1, 1}).to(torch::kBFloat16), torch::kFloat32, {});
  EXPECT_EQ(y.item<float>(), 256.5f);
}

TEST(LoraLinear, AYoungAdapterMovesBf16OutputsByItsChangeOnAverage) {
  // Outputs near 8 have steps of 1/16 in BF16; the adapter adds 1/128. Each output may round either
  // way, but the mean over n of them has to move: its error is about step / sqrt(12 n) = 0.0003.
  at::manual_seed(3);
  constexpr int64_t kTokens = 1 << 12;
  const Tensor x = (at::randn({kTokens, 64}) * 0.1)
                       .index_fill_(1, at::zeros({1}, torch::kInt64), 1)
                       .to(torch::kBFloat16);
  Tensor w = at::randn({1, 64});
  w[0][0] = 8;
  Tensor a = at::zeros({1, 64});
  a[0][0] = 1;
  LoraLinear linear("x", FrozenWeight(w));
  const auto mean = [&](double b) {
    linear.set_adapter({.a = a, .b = at::full({1, 1}, b), .alpha = 1, .scale = 1});
    const at::NoGradGuard no_graph;
    return linear.forward(x, torch::kBFloat16, {}).to(torch::kFloat64).mean().item<double>();
  };
  EXPECT_NEAR(mean(1 / 128.0) - mean(0), 1 / 128.0, 0.0015);  // five sigma of the difference
}

TEST(LoraLinear, ShapesThatDoNotFitAreRefused) {
  Case c = make(true, false);
  EXPECT_THROW(c.linear.forward(at::randn({9, 21}), torch::kFloat32, {}), ShapeError);
  EXPECT_THROW(c.linear.forward(at::randn({20}), torch::kFloat32, {}), ShapeError);
  EXPECT_THROW(c.linear.set_adapter({.a = at::randn({3, 20}), .b = at::randn({24, 4})}),
               ShapeError);
  EXPECT_THROW(c.linear.set_adapter({.a = at::randn({3, 21}), .b = at::randn({24, 3})}),
               ShapeError);
}

/// What W8A8 and FP8 weights bring along: the product sees rounded inputs, the adapter and all
/// gradients the inputs as they are.
TEST(LoraLinear, InputsAreRoundedForTheFrozenProductAloneAndStraightThrough) {
  using quant::InputRounding;
  for (const bool adapted : {false, true}) {
    for (const auto rounding : {InputRounding::kInt8PerToken, InputRounding::kFp8PerToken,
                                InputRounding::kFp8Static, InputRounding::kInt8WithOutliers}) {
      const quant::InputQuantizer quantizer{rounding, 0.05f, 1.5f};
      const Case plain = make(false, adapted);
      Case c = make(false, adapted);
      FrozenWeight weight(c.weight);
      weight.set_input_quantizer(quantizer);
      c.linear.set_weight(std::move(weight));
      const Tensor x = at::randn({9, 20}).requires_grad_(true), dy = at::randn({9, 24});
      const Tensor x2 = x.detach().clone().requires_grad_(true);
      const Tensor y = c.linear.forward(x, torch::kFloat32, {});
      const Tensor rounded = quant::round_inputs(x.detach(), quantizer);
      ASSERT_FALSE(torch::equal(rounded, x));
      const Tensor moved = at::matmul(rounded - x.detach(), c.weight.t());
      const Tensor unrounded = plain.linear.forward(x2, torch::kFloat32, {});
      EXPECT_LT(relative(y.detach(), (unrounded + moved).detach()), 1e-6);
      torch::autograd::backward({y}, {dy});
      torch::autograd::backward({unrounded}, {dy});
      EXPECT_LT(relative(x.grad(), x2.grad()), 1e-6);
      if (!adapted) continue;
      EXPECT_LT(relative(c.linear.adapter()->a.grad(), plain.linear.adapter()->a.grad()), 1e-6);
      EXPECT_LT(relative(c.linear.adapter()->b.grad(), plain.linear.adapter()->b.grad()), 1e-6);
    }
  }
}

}  // namespace
}  // namespace qlora::lora
