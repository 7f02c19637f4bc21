// Every hand-written backward against finite differences, and every op against torch's own.
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>

#include "core/token_batch.h"
#include "lora/lora_linear.h"
#include "model/attention.h"
#include "model/loss_head.h"
#include "model/rms_norm.h"
#include "model/rope.h"
#include "model/swiglu.h"

namespace qlora::model {
namespace {

using torch::Tensor;

/// Checks backward against central differences of f, projected on a fixed random direction.
/// FP32 forwards: the step balances truncation h² against rounding eps/h, so that the relative
/// error of a difference is about eps^(2/3) ~ 2e-5 times the function's size.
void check_gradient(const std::function<Tensor(const std::vector<Tensor>&)>& f,
                    std::vector<Tensor> inputs, double bound) {
  for (auto& input : inputs) input.requires_grad_(true);
  const Tensor y = f(inputs);
  const Tensor direction = at::randn(y.sizes(), y.options().dtype(torch::kFloat32));
  const auto project = [&](const Tensor& out) {
    return (out.to(torch::kFloat64) * direction.to(torch::kFloat64)).sum().item<double>();
  };
  (y.to(torch::kFloat32) * direction).sum().backward();
  for (size_t n = 0; n < inputs.size(); ++n) {
    const at::NoGradGuard no_graph;
    const Tensor gradient = inputs[n].grad().to(torch::kFloat64);
    for (int probe = 0; probe < 3; ++probe) {
      const Tensor step = at::randn(inputs[n].sizes(), torch::kFloat32);
      constexpr double kStep = 5e-3;
      const Tensor kept = inputs[n].detach().clone();
      inputs[n].copy_(kept + kStep * step);
      const double up = project(f(inputs));
      inputs[n].copy_(kept - kStep * step);
      const double down = project(f(inputs));
      inputs[n].copy_(kept);
      const double measured = (up - down) / (2 * kStep);
      const double promised = (gradient * step.to(torch::kFloat64)).sum().item<double>();
      const double size = gradient.norm().item<double>() * step.norm().item<double>();
      EXPECT_LE(std::abs(measured - promised), bound * size) << "input " << n;
      EXPECT_GT(size, 0);
    }
  }
}

class OpGradient : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(20261122); }
};

TEST_F(OpGradient, RmsNorm) {
  for (const int64_t width : {3, 7, 64, 83}) {
    const Tensor weight = at::randn({width});
    check_gradient([&](const auto& in) { return rms_norm(in[0], weight, 1e-5, torch::kFloat32); },
                   {at::randn({5, width}) * 2}, 1e-3);
  }
}

TEST_F(OpGradient, Swiglu) {
  check_gradient([](const auto& in) { return swiglu(in[0], in[1]); },
                 {at::randn({4, 37}), at::randn({4, 37})}, 1e-3);
}

TEST_F(OpGradient, Rope) {
  io::HfConfig config;
  config.head_dim = 10;
  config.max_position_embeddings = 64;
  const RopeAngles angles = RopeTable(config).angles({0, 3, 8});
  check_gradient([&](const auto& in) { return apply_rope(in[0], angles, 10); },
                 {at::randn({8, 30})}, 1e-3);
}

TEST_F(OpGradient, Attention) {
  for (const auto& starts : std::vector<std::vector<int32_t>>{{0, 9}, {0, 1, 5, 9}, {0, 3, 6, 9}}) {
    check_gradient([&](const auto& in) { return attention(in[0], in[1], in[2], starts, 8); },
                   {at::randn({9, 32}), at::randn({9, 16}), at::randn({9, 16})}, 1e-3);
  }
}

TEST_F(OpGradient, LoraLinear) {
  const Tensor weight = at::randn({12, 10}), bias = at::randn({12});
  for (const double dropout : {0.0, 0.4}) {
    lora::LoraLinear linear("layer", lora::FrozenWeight(weight), bias);
    check_gradient(
        [&](const auto& in) {
          linear.set_adapter({.a = in[1],
                              .b = in[2],
                              .alpha = 4,
                              .scale = 2,
                              .dropout = dropout,
                              .dtype = torch::kFloat32});
          return linear.forward(in[0], torch::kFloat32, {.training = true, .seed = 3});
        },
        {at::randn({7, 10}), at::randn({2, 10}), at::randn({12, 2})}, 1e-3);
  }
}

TEST_F(OpGradient, FrozenLinear) {
  const lora::LoraLinear linear("layer", lora::FrozenWeight(at::randn({12, 10})), at::randn({12}));
  check_gradient([&](const auto& in) { return linear.forward(in[0], torch::kFloat32, {}); },
                 {at::randn({7, 10})}, 1e-3);
}

TEST_F(OpGradient, LossHead) {
  const Tensor lm_head = at::randn({53, 16}) * 0.3;
  const std::vector<int32_t> targets = {3, kIgnoreTarget, 52, 0, kIgnoreTarget, 17};
  check_gradient([&](const auto& in) { return target_loss_sum(in[0], lm_head, targets); },
                 {at::randn({6, 16})}, 1e-3);
}

TEST_F(OpGradient, SwigluEqualsTorch) {
  const Tensor gate = at::randn({3, 1000}) * 30, up = at::randn({3, 1000});
  const Tensor expected = at::silu(gate.to(torch::kFloat64)) * up.to(torch::kFloat64);
  const Tensor error = (swiglu(gate, up).to(torch::kFloat64) - expected).abs();
  EXPECT_LE((error / (expected.abs() + 1e-30)).max().item<double>(), 1e-5);
}

TEST_F(OpGradient, AttentionEqualsOnePassASegment) {
  const Tensor q = at::randn({20, 32}), k = at::randn({20, 16}), v = at::randn({20, 16});
  const std::vector<int32_t> starts = {0, 4, 8, 9, 20};
  const Tensor together = attention(q, k, v, starts, 8);
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t begin = starts[s], n = starts[s + 1] - begin;
    const auto heads = [&](const Tensor& x) {
      const Tensor split = x.narrow(0, begin, n).view({1, n, -1, 8}).transpose(1, 2);
      return split.size(1) == 4 ? split : split.repeat_interleave(2, 1);
    };
    const Tensor scores = at::matmul(heads(q), heads(k).transpose(-1, -2)) / std::sqrt(8.0);
    const Tensor mask = at::ones({n, n}, torch::kBool).tril().logical_not();
    const Tensor expected = at::matmul(scores.masked_fill(mask, -INFINITY).softmax(-1), heads(v))
                                .transpose(1, 2)
                                .reshape({n, 32});
    EXPECT_LT((together.narrow(0, begin, n) - expected).abs().max().item<double>(), 1e-5);
  }
}

TEST_F(OpGradient, LossHeadEqualsTorchAcrossChunks) {
  // 60,000 words make a chunk of 64 rows: three chunks here.
  const Tensor hidden = at::randn({150, 8}), lm_head = at::randn({60000, 8});
  std::vector<int32_t> targets;
  for (int i = 0; i < 150; ++i) targets.push_back(i % 11 == 0 ? kIgnoreTarget : i * 397);
  const Tensor wanted = at::empty({150}, torch::kInt64);
  for (int i = 0; i < 150; ++i) wanted[i] = targets[static_cast<size_t>(i)];
  const Tensor expected =
      at::cross_entropy_loss(at::mm(hidden.to(torch::kFloat64), lm_head.to(torch::kFloat64).t()),
                             wanted, {}, at::Reduction::None, kIgnoreTarget);
  const Tensor losses = target_losses(hidden, lm_head, targets);
  EXPECT_LT((losses - expected).abs().max().item<double>(), 1e-4);
  EXPECT_NEAR(target_loss_sum(hidden, lm_head, targets).item<double>(),
              expected.sum().item<double>(), 1e-5 * expected.sum().item<double>());
}

TEST_F(OpGradient, LossHeadSurvivesHugeLogits) {
  const Tensor hidden = at::ones({1, 1}), lm_head = at::zeros({4, 1});
  lm_head[2] = 3e38f;
  EXPECT_EQ(target_loss_sum(hidden, lm_head, {2}).item<float>(), 0.0f);
}

}  // namespace
}  // namespace qlora::model
