#include "model/kv_rounding.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <set>

namespace qlora::model {
namespace {

using torch::Tensor;

constexpr int64_t kTokens = 120, kHeads = 3, kHeadDim = 8;
const std::vector<int32_t> kSegments = {0, 70, 71, 120};

struct Pair {
  Tensor k, v;
};

Pair numbers() {
  at::manual_seed(6);
  return {at::randn({kTokens, kHeads * kHeadDim}), at::randn({kTokens, kHeads * kHeadDim})};
}

Pair rounded(Pair p, KvRounding rounding) {
  round_kv(p.k, p.v, kSegments, kHeadDim, rounding);
  return p;
}

TEST(KvRounding, NoneChangesNothing) {
  const Pair before = numbers(), after = rounded(before, KvRounding::kNone);
  EXPECT_TRUE(at::equal(before.k, after.k));
  EXPECT_TRUE(at::equal(before.v, after.v));
}

TEST(KvRounding, Int8HasAScaleForEachTokenAndHead) {
  const Pair before = numbers(), after = rounded(before, KvRounding::kInt8);
  for (const auto& [x, y] : {std::pair{before.k, after.k}, {before.v, after.v}}) {
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t h = 0; h < kHeads; ++h) {
        const Tensor from = x[t].narrow(0, h * kHeadDim, kHeadDim);
        const Tensor to = y[t].narrow(0, h * kHeadDim, kHeadDim);
        const float step = from.abs().max().item<float>() / 127;
        EXPECT_LE((to - from).abs().max().item<float>(), 0.5001F * step);
        EXPECT_LE((to / step - (to / step).round()).abs().max().item<float>(), 1e-3F);
      }
    }
  }
}

TEST(KvRounding, Int4RoundsKeysByChannelOfAGroupAndValuesByTokenAndHead) {
  const Pair before = numbers(), after = rounded(before, KvRounding::kInt4);
  for (const int64_t begin : {0, 32, 71}) {  // complete groups
    for (int64_t c = 0; c < kHeads * kHeadDim; ++c) {
      const Tensor from = before.k.select(1, c).narrow(0, begin, kKeyGroupTokens);
      const Tensor to = after.k.select(1, c).narrow(0, begin, kKeyGroupTokens);
      const float step = (from.max() - from.min()).item<float>() / 15;
      EXPECT_LE((to - from).abs().max().item<float>(), 0.5001F * step + 1e-6F);
      std::set<float> levels;
      for (int64_t t = 0; t < kKeyGroupTokens; ++t) levels.insert(to[t].item<float>());
      EXPECT_LE(levels.size(), 16U);
      EXPECT_GT(levels.size(), 5U);
    }
  }
  for (const auto& [begin, count] : {std::pair{64, 7}, {103, 17}}) {  // the newest of a segment
    EXPECT_TRUE(at::equal(after.k.narrow(0, begin, count), before.k.narrow(0, begin, count)));
  }
  for (int64_t t = 0; t < kTokens; ++t) {
    const Tensor from = before.v[t].view({kHeads, kHeadDim}),
                 to = after.v[t].view({kHeads, kHeadDim});
    const Tensor step = (from.amax(1, true) - from.amin(1, true)) / 15;
    EXPECT_TRUE(((to - from).abs() <= 0.5001 * step + 1e-6).all().item<bool>());
    EXPECT_FALSE(at::equal(to, from));
  }
}

TEST(KvRounding, ACacheThatGrowsByAnyStepsEndsAsOnePass) {
  for (const KvRounding rounding : {KvRounding::kNone, KvRounding::kInt8, KvRounding::kInt4}) {
    for (const auto& ends : {std::vector<int64_t>{75}, {1, 2, 31, 32, 33, 70, 75}, {40, 64, 75}}) {
      Pair whole = numbers();
      const auto by_head = [](const Tensor& x) {
        return x.view({kTokens, kHeads, kHeadDim}).transpose(0, 1).contiguous();
      };
      Tensor keys = by_head(whole.k), values = by_head(whole.v);
      int64_t cached = 0;
      for (const int64_t end : ends) {
        Tensor grown_keys = keys.narrow(1, 0, end), grown_values = values.narrow(1, 0, end);
        round_cached_kv(grown_keys, grown_values, cached, rounding);
        cached = end;
      }
      round_kv(whole.k, whole.v, {0, 75, kTokens}, kHeadDim, rounding);
      EXPECT_TRUE(at::equal(keys.narrow(1, 0, 75), by_head(whole.k).narrow(1, 0, 75)));
      EXPECT_TRUE(at::equal(values.narrow(1, 0, 75), by_head(whole.v).narrow(1, 0, 75)));
    }
  }
}

TEST(KvRounding, GradientsPassStraightThrough) {
  for (const KvRounding rounding : {KvRounding::kInt8, KvRounding::kInt4}) {
    Pair p = numbers();
    p.k.requires_grad_(true);
    p.v.requires_grad_(true);
    Tensor k = p.k, v = p.v;
    round_kv(k, v, kSegments, kHeadDim, rounding);
    const Tensor dk = at::randn(k.sizes()), dv = at::randn(v.sizes());
    ((k * dk).sum() + (v * dv).sum()).backward();
    EXPECT_TRUE(at::equal(p.k.grad(), dk));
    EXPECT_TRUE(at::equal(p.v.grad(), dv));
  }
}

}  // namespace
}  // namespace qlora::model
