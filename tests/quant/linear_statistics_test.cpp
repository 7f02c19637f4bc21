#include "quant/linear_statistics.h"

#include <ATen/core/Generator.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

torch::Tensor normal(const std::vector<int64_t>& shape, uint64_t seed) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

LinearStatistics statistics_of(const torch::Tensor& x) {
  return {.gram = torch::matmul(x.t(), x),
          .abs_sum = x.abs().sum(0),
          .abs_max = std::get<0>(x.abs().max(0)),
          .tokens = x.size(0)};
}

TEST(LinearStatistics, ErrorIsTheMeanSquaredNormOfTheOutputs) {
  for (const int64_t rows : {1, 5, 700}) {
    const auto x = normal({64, 40}, 1) * torch::linspace(0.1, 3, 40);
    const auto d = normal({rows, 40}, 2) * 0.01;
    const double explicit_error = torch::matmul(x.to(torch::kFloat64), d.to(torch::kFloat64).t())
                                      .square()
                                      .sum()
                                      .item<double>() /
                                  64;
    EXPECT_NEAR(output_error(d, statistics_of(x)), explicit_error, 1e-5 * explicit_error);
  }
  EXPECT_EQ(output_error(torch::zeros({3, 40}), statistics_of(normal({8, 40}, 1))), 0);
}

TEST(LinearStatistics, DividesAsIfTheInputsHadBeenDivided) {
  const auto x = normal({50, 12}, 3);
  const auto s = normal({12}, 4).abs() + 0.1;
  const LinearStatistics divided = statistics_of(x).divided_by(s), direct = statistics_of(x / s);
  EXPECT_TRUE(torch::allclose(divided.gram, direct.gram, 1e-5, 1e-5));
  EXPECT_TRUE(torch::allclose(divided.abs_sum, direct.abs_sum));
  EXPECT_TRUE(torch::allclose(divided.abs_max, direct.abs_max));
  EXPECT_EQ(divided.tokens, 50);
  EXPECT_TRUE(torch::equal(divided.gram, divided.gram.t()));
  LinearStatistics gram_alone{.gram = direct.gram, .tokens = 50};
  EXPECT_FALSE(gram_alone.divided_by(s).abs_sum.defined());
}

TEST(LinearStatistics, RefusesWhatDoesNotFit) {
  const LinearStatistics good = statistics_of(normal({8, 12}, 5));
  LinearStatistics no_tokens = good;
  no_tokens.tokens = 0;
  EXPECT_SAYS(testing::message_of<ShapeError>([&] { good.divided_by(torch::ones({11})); }),
              "shape [11], allowed [12]");
  EXPECT_SAYS(testing::message_of<ShapeError>([&] {
                output_error(torch::ones({2, 11}), good);
              }),
              "Gram matrix [12, 12]");
  EXPECT_SAYS(testing::message_of<ShapeError>([&] {
                output_error(torch::ones({2, 12}), {.tokens = 1});
              }),
              "Gram matrix none");
  EXPECT_SAYS(testing::message_of<ValueError>([&] {
                output_error(torch::ones({2, 12}), no_tokens);
              }),
              "0 tokens");
}

}  // namespace
}  // namespace qlora::quant
