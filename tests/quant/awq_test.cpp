#include "quant/awq.h"

#include <ATen/core/Generator.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "quant/affine.h"
#include "quant/awq_composed.h"
#include "tests/quant/cpu_case.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

Tensor normal(const std::vector<int64_t>& shape, uint64_t seed) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

/// Inputs of which some are far greater than the others, as those of a model are.
Tensor uneven_inputs(int64_t tokens, int64_t cols, uint64_t seed) {
  const auto mix = normal({cols, cols}, seed + 1000) * 0.1 + torch::eye(cols);
  return torch::matmul(normal({tokens, cols}, seed), mix) *
         (normal({cols}, seed + 2000) * 1.5).exp();
}

LinearStatistics statistics_of(const Tensor& x) {
  return {.gram = torch::matmul(x.t(), x),
          .abs_sum = x.abs().sum(0),
          .abs_max = x.abs().amax({0}),
          .tokens = x.size(0)};
}

/// Mean squared change of the outputs on the inputs themselves, in 64 bits.
double seen_loss(const Tensor& x, const Tensor& difference) {
  const auto y = torch::matmul(x.to(torch::kFloat64), difference.to(torch::kFloat64).t());
  return y.square().sum().item<double>() / static_cast<double>(x.size(0));
}

double loss_with(const Tensor& x, const std::vector<Tensor>& weights, const Tensor& s,
                 const AffineOptions& affine) {
  double loss = 0;
  for (const Tensor& w : weights) loss += seen_loss(x, round_to_grid(w * s, affine) / s - w);
  return loss;
}

/// One of the two forms, from its formula.
Tensor scales_of(const Tensor& x, const std::vector<Tensor>& weights, double alpha,
                 bool uses_weight, int64_t group_size) {
  auto s = x.abs().mean(0).pow(alpha);
  if (uses_weight) {
    const auto w = torch::cat(weights);
    const auto groups = w.abs().view({w.size(0), -1, group_size});
    const auto relative = (groups / groups.amax({2}, true)).view(w.sizes()).mean(0);
    s = s / relative.pow(1 - alpha);
  }
  return s / (s.max() * s.min()).sqrt();
}

TEST(Awq, FindsTheScalesThatBruteForceFinds) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const int64_t cols = 96;
    const auto x = uneven_inputs(150, cols, seed);
    const std::vector<Tensor> weights = {normal({40, cols}, seed + 10),
                                         normal({8, cols}, seed + 20)};
    for (const bool duo : {false, true}) {
      const AffineOptions affine{.bits = seed % 2 == 0 ? 3 : 4, .group_size = 32};
      const AwqOptions options{.scale_steps = 10, .duo_scaling = duo};
      const AwqScales found = awq_scales(weights, statistics_of(x), affine, options);

      double least = loss_with(x, weights, torch::ones({cols}), affine);
      EXPECT_NEAR(found.loss_before, least, 1e-4 * least);
      for (int step = 0; step < 10; ++step) {
        for (const bool uses_weight : {false, true}) {
          if (uses_weight && !duo) continue;
          const auto s = scales_of(x, weights, step / 10.0, uses_weight, 32);
          least = std::min(least, loss_with(x, weights, s, affine));
        }
      }
      EXPECT_LT(found.loss, found.loss_before);
      EXPECT_NEAR(found.loss, least, 1e-4 * least);
      // What is returned is what was measured.
      EXPECT_NEAR(loss_with(x, weights, found.scales, affine), least, 1e-4 * least);
      const auto s = scales_of(x, weights, found.alpha, found.uses_weight, 32);
      EXPECT_TRUE(torch::allclose(found.scales, s, 1e-4));
      EXPECT_NEAR((found.scales.max() * found.scales.min()).item<double>(), 1, 1e-4);
      EXPECT_TRUE(duo || !found.uses_weight);
    }
  }
}

TEST(Awq, AQuarterOfManyRowsRulesOutWhatLosesMore) {
  const int64_t cols = 64;
  const auto x = uneven_inputs(200, cols, 30);
  const std::vector<Tensor> weights = {normal({400, cols}, 31), normal({200, cols}, 32)};
  const AffineOptions affine{.bits = 3, .group_size = 32};
  const AwqScales found = awq_scales(weights, statistics_of(x), affine, {});
  double least = loss_with(x, weights, torch::ones({cols}), affine);
  for (int step = 0; step < 20; ++step) {
    for (const bool uses_weight : {false, true}) {
      const auto s = scales_of(x, weights, step / 20.0, uses_weight, 32);
      least = std::min(least, loss_with(x, weights, s, affine));
    }
  }
  EXPECT_LE(found.loss, 1.001 * least);
  EXPECT_NEAR(loss_with(x, weights, found.scales, affine), found.loss, 1e-4 * found.loss);
}

TEST(Awq, ChangesNothingWhereNothingIsBetter) {
  // Weights that lie on a grid already: no rounding error without scales.
  auto w = torch::randint(-8, 8, {16, 32}, at::make_generator<at::CPUGeneratorImpl>(uint64_t{5}),
                          torch::kFloat32);
  w.select(1, 0).fill_(7);
  w.select(1, 1).fill_(-8);
  const auto s =
      awq_scales({&w, 1}, statistics_of(uneven_inputs(60, 32, 6)), {.group_size = 32}, {});
  EXPECT_EQ(s.loss_before, 0);
  EXPECT_EQ(s.loss, 0);
  EXPECT_TRUE(torch::equal(s.scales, torch::ones({32})));
}

TEST(Awq, LeavesInputsThatAreAlwaysZeroAlone) {
  auto x = uneven_inputs(100, 64, 7);
  x.select(1, 3).zero_();
  x.select(1, 33).zero_();
  const auto w = normal({24, 64}, 8);
  const auto r = awq_scales({&w, 1}, statistics_of(x), {.bits = 3, .group_size = 32}, {});
  EXPECT_EQ(r.scales[3].item<float>(), 1);
  EXPECT_EQ(r.scales[33].item<float>(), 1);
  EXPECT_TRUE(r.scales.isfinite().logical_and(r.scales.gt(0)).all().item<bool>());
  EXPECT_LT(r.loss, r.loss_before);

  const LinearStatistics none{
      .gram = torch::zeros({64, 64}), .abs_sum = torch::zeros({64}), .tokens = 5};
  EXPECT_TRUE(
      torch::equal(awq_scales({&w, 1}, none, {.group_size = 32}, {}).scales, torch::ones({64})));
}

TEST(Awq, KeepsItsScalesFiniteForExtremeInputs) {
  auto x = uneven_inputs(100, 64, 9);
  x.select(1, 1) *= 1e12;
  x.select(1, 2) *= 1e-12;
  const auto w = normal({24, 64}, 10);
  const auto r = awq_scales({&w, 1}, statistics_of(x), {.group_size = 32}, {});
  EXPECT_TRUE(r.scales.isfinite().logical_and(r.scales.gt(0)).all().item<bool>());
  EXPECT_LE(r.loss, r.loss_before);
}

TEST(Awq, ClipsAsBruteForceDoes) {
  const int64_t rows = 24, cols = 96, size = 32;
  const auto x = uneven_inputs(300, cols, 11);
  auto w = normal({rows, cols}, 12);
  w.select(1, 7) *= 4;
  const AwqOptions options{.clip_steps = 20, .clip_least = 0.5};
  for (const auto rule : {GridRule::kAsymmetric, GridRule::kSymmetric}) {
    for (const int64_t group_size : {size, int64_t{-1}}) {
      const AffineOptions affine{.bits = 3, .group_size = group_size, .rule = rule};
      const int64_t width = group_size == -1 ? cols : group_size;
      const auto found = awq_clip(w, statistics_of(x), affine, options);
      ASSERT_EQ(found.size(1), cols / width);
      int64_t narrowed = 0;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t g = 0; g < cols / width; ++g) {
          const auto part = w.narrow(0, row, 1).narrow(1, g * width, width);
          const auto inputs = x.narrow(1, g * width, width);
          const float most = part.abs().max().item<float>();
          double least = std::numeric_limits<double>::infinity(), at_found = least;
          for (int step = 0; step <= 10; ++step) {
            const float cut = most * static_cast<float>(1 - step / 20.0);
            const auto rounded = round_to_grid(part.clamp(-cut, cut).contiguous(),
                                               {.bits = 3, .group_size = -1, .rule = rule});
            const double loss = seen_loss(inputs, rounded - part);
            least = std::min(least, loss);
            if (cut == found[row][g].item<float>()) at_found = loss;
          }
          ASSERT_LE(at_found, least * 1.0001) << row << ", " << g;
          narrowed += found[row][g].item<float>() < most ? 1 : 0;
        }
      }
      EXPECT_GT(narrowed, found.numel() / 4);
      const auto cut = clipped(w, found);
      const double before = seen_loss(x, round_to_grid(w, affine) - w);
      EXPECT_LT(seen_loss(x, round_to_grid(cut, affine) - w), before);
    }
  }
}

TEST(Awq, TheClipSearchLosesNoMoreThanTheCompositionOfLibtorch) {
  const int64_t rows = 53, cols = 192;
  const auto s = statistics_of(uneven_inputs(300, cols, 16));
  const auto w = normal({rows, cols}, 17);
  for (const int64_t size : {64, 24}) {
    const AffineOptions affine{.bits = 3, .group_size = size};
    const auto ours = awq_clip(w, s, affine, {});
    const auto composition = composed::awq_clip(w, s.gram, affine, size, 20, 11);
    // Sums in another order may decide between two magnitudes of almost the same error.
    EXPECT_LE(ours.ne(composition).sum().item<int64_t>(), ours.numel() / 200);
  }
}

TEST(Awq, TheInstructionSetAndTheThreadCountChangeNoClip) {
  const auto s = statistics_of(uneven_inputs(200, 96, 18));
  const auto w = normal({45, 96}, 19);
  const AffineOptions affine{.bits = 4, .group_size = 32};
  const auto want = awq_clip(w, s, affine, {});
  for (const int64_t target : testing::simd_targets()) {
    const testing::UseSimdTarget use(target);
    for (const int threads : {1, 3}) {
      const testing::UseThreads with(threads);
      EXPECT_TRUE(torch::equal(awq_clip(w, s, affine, {}), want));
    }
  }
}

TEST(Awq, CutsEachGroupToItsMagnitude) {
  const auto w = torch::tensor({-3.0f, 1.0f, 2.0f, -5.0f, 0.5f, 9.0f}).view({1, 6});
  const auto cut = clipped(w, torch::tensor({2.0f, 4.0f}).view({1, 2}));
  EXPECT_TRUE(
      torch::equal(cut, torch::tensor({-2.0f, 1.0f, 2.0f, -4.0f, 0.5f, 4.0f}).view({1, 6})));
  EXPECT_SAYS(testing::message_of<ShapeError>([&] {
                clipped(w, torch::ones({1, 4}));
              }),
              "magnitudes have shape [1, 4]");
}

TEST(Awq, RefusesWhatDoesNotFit) {
  const auto w = normal({8, 32}, 13);
  const auto good = statistics_of(uneven_inputs(40, 32, 14));
  const AffineOptions affine{.group_size = 16};
  const auto says = [&](const Tensor& weight, const LinearStatistics& s) {
    return testing::message_of<Error>([&] { awq_scales({&weight, 1}, s, affine, {}); });
  };
  EXPECT_SAYS(says(normal({8, 48}, 15), good), "weight has shape [8, 48], allowed [N, 32]");
  EXPECT_SAYS(says(Tensor(), good), "weight has shape none");
  EXPECT_SAYS(says(w.to(torch::kFloat64), good), "weight is Double");
  EXPECT_SAYS(testing::message_of<ShapeError>([&] { awq_scales({}, good, affine, {}); }),
              "no weight");
  auto s = good;
  s.tokens = 0;
  EXPECT_SAYS(says(w, s), "0 tokens");
  s = good;
  s.abs_sum = torch::ones({31});
  EXPECT_SAYS(says(w, s), "abs_sum has shape [31]");
  s.abs_sum = Tensor();
  EXPECT_SAYS(says(w, s), "abs_sum has shape none");
  EXPECT_NO_THROW(awq_clip(w, s, affine, {}));
  s = good;
  s.abs_sum = good.abs_sum.clone();
  s.abs_sum[4] = std::numeric_limits<float>::infinity();
  EXPECT_SAYS(says(w, s), "not finite");
  s = good;
  s.gram = torch::full({32, 32}, std::nanf(""));
  EXPECT_SAYS(says(w, s), "not finite");
  EXPECT_SAYS(testing::message_of<ValueError>([&] { awq_clip(w, s, affine, {}); }), "not finite");
  s.gram = torch::ones({32, 31});
  EXPECT_SAYS(says(w, s), "allowed [K, K]");
  auto bad = w.clone();
  bad[2][3] = std::nanf("");
  EXPECT_SAYS(says(bad, good), "weight element [2, 3]");
  EXPECT_THROW(awq_clip(bad, good, affine, {}), ValueError);
}

}  // namespace
}  // namespace qlora::quant
