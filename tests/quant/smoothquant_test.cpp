#include "quant/smoothquant.h"

#include <ATen/core/Generator.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "quant/affine.h"
#include "quant/input_quantizer.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

Tensor normal(const std::vector<int64_t>& shape, uint64_t seed) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

TEST(Smoothquant, SharesTheRangeBetweenInputsAndWeights) {
  const std::vector<Tensor> weights = {normal({20, 48}, 1), normal({6, 48}, 2) * 3};
  const LinearStatistics s{.abs_max = normal({48}, 3).exp() * 5, .tokens = 10};
  const auto most = torch::cat(weights).abs().amax({0});
  for (const double alpha : {0.0, 0.3, 0.5, 1.0}) {
    const auto scales = smoothquant_scales(weights, s, alpha);
    const auto by_hand = s.abs_max.pow(alpha) / most.pow(1 - alpha);
    EXPECT_TRUE(torch::allclose(scales, by_hand, 1e-5));
  }
  // At 0.5 inputs and weights end with the same range in every column.
  const auto half = smoothquant_scales(weights, s);
  EXPECT_TRUE(torch::allclose(s.abs_max / half, most * half, 1e-5));
}

TEST(Smoothquant, LowersTheErrorOfEightBitProductsWithOutliers) {
  auto x = normal({200, 64}, 4);
  x.select(1, 9) *= 60;
  x.select(1, 41) *= 30;
  const auto w = normal({32, 64}, 5);
  const auto exact = torch::matmul(x, w.t());
  const AffineOptions int8{.bits = 8, .group_size = -1, .rule = GridRule::kSymmetric};
  const auto error = [&](const Tensor& s) {
    const auto y = torch::matmul(round_inputs(x / s, {.rounding = InputRounding::kInt8PerToken}),
                                 round_to_grid(w * s, int8).t());
    return (y - exact).square().mean().item<double>();
  };
  const auto s = smoothquant_scales({&w, 1}, {.abs_max = x.abs().amax({0}), .tokens = 200});
  EXPECT_LT(error(s), 0.25 * error(torch::ones({64})));
}

TEST(Smoothquant, ScalesAreSoundForEmptyAndExtremeColumns) {
  auto w = normal({8, 6}, 6);
  w.select(1, 1).zero_();
  w.select(1, 2).fill_(3e38);
  w.select(1, 3).fill_(1e-38);
  auto inputs = torch::ones({6});
  inputs[0] = 0;
  inputs[2] = 1e-30;
  inputs[3] = 3e38;
  const auto s = smoothquant_scales({&w, 1}, {.abs_max = inputs, .tokens = 1});
  EXPECT_TRUE(s.isfinite().logical_and(s.gt(0)).all().item<bool>());
  EXPECT_EQ(s[0].item<float>(), 1);
  EXPECT_EQ(s[1].item<float>(), 1);
}

TEST(Smoothquant, RefusesWhatDoesNotFit) {
  const auto w = normal({4, 6}, 8);
  const LinearStatistics good{.abs_max = torch::ones({6}), .tokens = 1};
  const auto says = [&](std::span<const Tensor> weights, const LinearStatistics& s, double alpha) {
    return testing::message_of<Error>([&] { smoothquant_scales(weights, s, alpha); });
  };
  EXPECT_SAYS(says({&w, 1}, good, 1.5), "alpha is 1.5, allowed 0 to 1");
  EXPECT_SAYS(says({&w, 1}, good, std::nan("")), "alpha is nan");
  EXPECT_SAYS(says({}, good, 0.5), "no weight");
  EXPECT_SAYS(says({&w, 1}, {.tokens = 1}, 0.5), "abs_max has shape none");
  EXPECT_SAYS(says({&w, 1}, {.abs_max = torch::ones({5}), .tokens = 1}, 0.5), "allowed [N, 5]");
  EXPECT_SAYS(says({&w, 1}, {.abs_max = torch::full({6}, std::nanf("")), .tokens = 1}, 0.5),
              "not finite");
  auto bad = w.clone();
  bad[0][0] = std::numeric_limits<float>::infinity();
  EXPECT_SAYS(says({&bad, 1}, good, 0.5), "not finite");
}

}  // namespace
}  // namespace qlora::quant
