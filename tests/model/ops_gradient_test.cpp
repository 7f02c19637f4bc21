// Every hand-written backward against finite differences, and every op against torch's own.
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/gelu.h>
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
#include "model/experts.h"
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
  const RopeAngles angles = RopeTables(config).angles({0, 3, 8}).global;
  check_gradient([&](const auto& in) { return apply_rope(in[0], angles, 10); },
                 {at::randn({8, 30})}, 1e-3);
}

TEST_F(OpGradient, Attention) {
  for (const auto& starts : std::vector<std::vector<int32_t>>{{0, 9}, {0, 1, 5, 9}, {0, 3, 6, 9}}) {
    check_gradient(
        [&](const auto& in) { return attention(in[0], in[1], in[2], starts, {.head_dim = 8}); },
        {at::randn({9, 32}), at::randn({9, 16}), at::randn({9, 16})}, 1e-3);
  }
}

TEST_F(OpGradient, AttentionWithWindowAndCap) {
  for (const auto& starts : std::vector<std::vector<int32_t>>{{0, 9}, {0, 1, 5, 9}}) {
    for (const AttentionOptions& options :
         {AttentionOptions{.head_dim = 8, .window = 3},
          AttentionOptions{.head_dim = 8, .softcap = 2},
          AttentionOptions{.head_dim = 8, .scale = 0.6, .window = 4, .softcap = 1.5}}) {
      check_gradient(
          [&](const auto& in) { return attention(in[0], in[1], in[2], starts, options); },
          {at::randn({9, 32}), at::randn({9, 16}), at::randn({9, 16})}, 1e-3);
    }
  }
}

TEST_F(OpGradient, Geglu) {
  check_gradient([](const auto& in) { return swiglu(in[0], in[1], io::Activation::kGeluTanh); },
                 {at::randn({4, 37}) * 2, at::randn({4, 37})}, 1e-3);
}

TEST_F(OpGradient, PartialRope) {
  io::HfConfig config;
  config.head_dim = 10;
  config.max_position_embeddings = 64;
  config.rope.partial_rotary_factor = 0.6;
  const RopeAngles angles = RopeTables(config).angles({0, 3, 8}).global;
  const Tensor x = at::randn({8, 30});
  const Tensor y = apply_rope(x, angles, 10);
  const auto rest = [](const Tensor& t) { return t.view({8, 3, 10}).narrow(2, 6, 4); };
  EXPECT_TRUE(rest(y).equal(rest(x)));
  EXPECT_FALSE(y.narrow(0, 1, 1).equal(x.narrow(0, 1, 1)));
  check_gradient([&](const auto& in) { return apply_rope(in[0], angles, 10); }, {x}, 1e-3);
}

TEST_F(OpGradient, MixtureOfExperts) {
  constexpr int64_t kExperts = 4, kWidth = 10, kMlp = 6;
  const Tensor router = at::randn({kExperts, kWidth});
  std::vector<ExpertMlp> experts;
  const auto linear = [](int64_t e, int64_t n, int64_t k) {
    return lora::LoraLinear(fmt::format("experts.{}.{}x{}", e, n, k),
                            lora::FrozenWeight(at::randn({n, k}) * 0.4));
  };
  for (int64_t e = 0; e < kExperts; ++e) {
    experts.push_back({linear(e, kMlp, kWidth), linear(e, kMlp, kWidth), linear(e, kWidth, kMlp)});
  }
  // Far from a tie: a step must not change the choice of experts.
  const Tensor x = at::randn({9, kWidth}) * 2;
  for (const bool sums_to_one : {true, false}) {
    check_gradient(
        [&](const auto& in) {
          return mixture_of_experts(in[0], router, experts, {.used = 2, .sums_to_one = sums_to_one},
                                    {});
        },
        {x.clone()}, 1e-3);
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
  check_gradient([&](const auto& in) { return target_loss_sum(in[0], lm_head, targets, 0.8); },
                 {at::randn({6, 16})}, 1e-3);
}

TEST_F(OpGradient, GegluEqualsTorch) {
  const Tensor gate = at::randn({3, 1000}) * 3, up = at::randn({3, 1000});
  const Tensor expected = at::gelu(gate.to(torch::kFloat64), "tanh") * up.to(torch::kFloat64);
  const Tensor error =
      (swiglu(gate, up, io::Activation::kGeluTanh).to(torch::kFloat64) - expected).abs();
  // Where 1 + tanh cancels, the product is small against the gate: the bound is the gate's.
  const Tensor size = (gate * up).abs().to(torch::kFloat64);
  EXPECT_LE((error / (size + 1e-30)).max().item<double>(), 1e-6);
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
  const Tensor together = attention(q, k, v, starts, {.head_dim = 8});
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

/// softmax(cap(scale·q·kᵀ))·v of one segment in double, with a whole mask.  [T, H·D]
Tensor plain_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                       const AttentionOptions& options) {
  const int64_t n = q.size(0), d = options.head_dim, times = q.size(1) / k.size(1);
  const auto heads = [&](const Tensor& x, int64_t repeat) {
    const Tensor split = x.to(torch::kFloat64).view({n, -1, d}).transpose(0, 1);
    return repeat == 1 ? split : split.repeat_interleave(repeat, 0);
  };
  const double scale = options.scale > 0 ? options.scale : 1 / std::sqrt(static_cast<double>(d));
  Tensor scores = at::matmul(heads(q, 1), heads(k, times).transpose(-1, -2)) * scale;
  if (options.softcap > 0) scores = (scores / options.softcap).tanh() * options.softcap;
  Tensor seen = at::ones({n, n}, torch::kBool).tril();
  if (options.window > 0) seen = seen.logical_and(seen.triu(1 - options.window));
  scores = scores.masked_fill(seen.logical_not(), -INFINITY).softmax(-1);
  return at::matmul(scores, heads(v, times)).transpose(0, 1).reshape({n, q.size(1)});
}

TEST_F(OpGradient, TiledAttentionEqualsOneMask) {
  // 600 tokens make three blocks of queries; the windows end inside, at and beyond them.
  const Tensor q = at::randn({600, 32}), k = at::randn({600, 16}), v = at::randn({600, 16});
  for (const int64_t window : {0, 1, 31, 256, 300, 599, 5000}) {
    for (const double cap : {0.0, 1.5}) {
      const AttentionOptions options{.head_dim = 8, .scale = 0.5, .window = window, .softcap = cap};
      const Tensor expected = plain_attention(q, k, v, options);
      const Tensor whole = attention(q, k, v, {0, 600}, options);
      EXPECT_LT((whole - expected).abs().max().item<double>(), 2e-6) << window << " " << cap;
      // Behind a cache: the last tokens at once, and the last one alone.
      const auto cache = [](const Tensor& x) { return x.view({600, 2, 8}).transpose(0, 1); };
      for (const int64_t n : {300, 1}) {
        const Tensor last = cached_attention(q.narrow(0, 600 - n, n), cache(k), cache(v), options);
        const double error = (last - expected.narrow(0, 600 - n, n)).abs().max().item<double>();
        EXPECT_LT(error, 2e-6) << window << " " << cap << " last " << n;
      }
    }
  }
}

TEST_F(OpGradient, TiledAttentionEqualsTorchWithTheCapOff) {
  Tensor q = at::randn({300, 32}), k = at::randn({300, 32}), v = at::randn({300, 32});
  for (Tensor* x : {&q, &k, &v}) x->requires_grad_(true);
  const Tensor direction = at::randn({300, 32});
  const auto gradients = [&](const Tensor& y) {
    for (Tensor* x : {&q, &k, &v}) x->mutable_grad().reset();
    (y * direction).sum().backward();
    return at::cat({q.grad(), k.grad(), v.grad()}).clone();
  };
  const auto heads = [](const Tensor& x) { return x.view({1, 300, 4, 8}).transpose(1, 2); };
  const Tensor torchs =
      at::scaled_dot_product_attention(heads(q), heads(k), heads(v), {}, 0.0, true)
          .transpose(1, 2)
          .reshape({300, 32});
  const Tensor expected = gradients(torchs);
  // A cap that no score comes near changes next to nothing: z³ / (3 cap²).
  for (const double cap : {0.0, 1e4}) {
    const Tensor mine = attention(q, k, v, {0, 300}, {.head_dim = 8, .softcap = cap});
    EXPECT_LT((mine - torchs).abs().max().item<double>(), 2e-6) << cap;
    EXPECT_LT((gradients(mine) - expected).abs().max().item<double>(), 2e-5) << cap;
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

TEST_F(OpGradient, CappedLossEqualsTorch) {
  const Tensor hidden = at::randn({33, 8}) * 3, lm_head = at::randn({501, 8});
  std::vector<int32_t> targets;
  for (int i = 0; i < 33; ++i) targets.push_back(i * 15);
  const Tensor wanted = at::arange(33, torch::kInt64) * 15;
  for (const double cap : {0.5, 4.0, 30.0}) {
    const Tensor logits = at::mm(hidden.to(torch::kFloat64), lm_head.to(torch::kFloat64).t());
    const Tensor capped = (logits / cap).tanh() * cap;
    const Tensor expected =
        at::cross_entropy_loss(capped, wanted, {}, at::Reduction::None, kIgnoreTarget);
    const Tensor losses = target_losses(hidden, lm_head, targets, cap);
    EXPECT_LT((losses - expected).abs().max().item<double>(), 1e-5) << cap;
    EXPECT_LT((all_logits(hidden, lm_head, cap) - capped).abs().max().item<double>(), 2e-5) << cap;
  }
}

TEST_F(OpGradient, LossHeadSurvivesHugeLogits) {
  const Tensor hidden = at::ones({1, 1}), lm_head = at::zeros({4, 1});
  lm_head[2] = 3e38f;
  EXPECT_EQ(target_loss_sum(hidden, lm_head, {2}).item<float>(), 0.0f);
}

}  // namespace
}  // namespace qlora::model
