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

constexpr int64_t kTokens = 40, kHeads = 3, kHeadDim = 8;
const std::vector<int32_t> kSegments = {0, 17, 18, 40};

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

TEST(KvRounding, Int4RoundsKeysByChannelOfASegmentAndValuesByTokenAndHead) {
  const Pair before = numbers(), after = rounded(before, KvRounding::kInt4);
  for (size_t s = 0; s + 1 < kSegments.size(); ++s) {
    const int64_t begin = kSegments[s], count = kSegments[s + 1] - begin;
    for (int64_t c = 0; c < kHeads * kHeadDim; ++c) {
      const Tensor from = before.k.select(1, c).narrow(0, begin, count);
      const Tensor to = after.k.select(1, c).narrow(0, begin, count);
      const float step = (from.max() - from.min()).item<float>() / 15;
      EXPECT_LE((to - from).abs().max().item<float>(), 0.5001F * step + 1e-6F);
      std::set<float> levels;
      for (int64_t t = 0; t < count; ++t) levels.insert(to[t].item<float>());
      EXPECT_LE(levels.size(), 16U);
      if (count > 16) {
        EXPECT_GT(levels.size(), 5U);
      }
    }
  }
  for (int64_t t = 0; t < kTokens; ++t) {
    const Tensor from = before.v[t].view({kHeads, kHeadDim}),
                 to = after.v[t].view({kHeads, kHeadDim});
    const Tensor step = (from.amax(1, true) - from.amin(1, true)) / 15;
    EXPECT_TRUE(((to - from).abs() <= 0.5001 * step + 1e-6).all().item<bool>());
    EXPECT_FALSE(at::equal(to, from));
  }
  // The single token of the second segment is its own range.
  EXPECT_TRUE(at::equal(after.k[17], before.k[17]));
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
