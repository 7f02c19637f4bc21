#include "eval/model_comparison.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/token_batch.h"

namespace qlora::eval {
namespace {

/// Log probabilities of one position in double, from the definition.
std::vector<double> log_probabilities(const torch::Tensor& hidden, const torch::Tensor& lm_head) {
  const torch::Tensor logits =
      lm_head.to(torch::kFloat64).mv(hidden.to(torch::kFloat64)).contiguous();
  std::vector<double> values(logits.const_data_ptr<double>(),
                             logits.const_data_ptr<double>() + logits.numel());
  double sum = 0;
  const double largest = *std::max_element(values.begin(), values.end());
  for (const double v : values) sum += std::exp(v - largest);
  for (double& v : values) v -= largest + std::log(sum);
  return values;
}

ModelComparison direct(const OutputStates& reference, const OutputStates& other,
                       const std::vector<int32_t>& targets) {
  ModelComparison result;
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t] == kIgnoreTarget) continue;
    const auto at = static_cast<int64_t>(t);
    const auto p = log_probabilities(reference.hidden[at], reference.lm_head);
    const auto q = log_probabilities(other.hidden[at], other.lm_head);
    for (size_t v = 0; v < p.size(); ++v) result.kl_divergence += std::exp(p[v]) * (p[v] - q[v]);
    result.nll -= q[static_cast<size_t>(targets[t])];
    const auto best = [](const auto& row) {
      return std::max_element(row.begin(), row.end()) - row.begin();
    };
    result.top1_agreement += best(p) == best(q);
    ++result.tokens;
  }
  const auto count = static_cast<double>(result.tokens);
  result.nll /= count;
  result.kl_divergence /= count;
  result.top1_agreement /= count;
  result.perplexity = std::exp(result.nll);
  return result;
}

struct Sizes {
  int64_t positions, width, vocabulary;
};

class Comparison : public ::testing::TestWithParam<Sizes> {};

TEST_P(Comparison, EqualsTheDirectSums) {
  const auto [positions, width, vocabulary] = GetParam();
  torch::manual_seed(positions);
  const OutputStates reference{torch::randn({positions, width}),
                               torch::randn({vocabulary, width}) * 0.3};
  const OutputStates other{reference.hidden + 0.2 * torch::randn({positions, width}),
                           reference.lm_head + 0.05 * torch::randn({vocabulary, width})};
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < positions; ++t) {
    targets.push_back(t % 5 == 2 ? kIgnoreTarget : static_cast<int32_t>(t * 31 % vocabulary));
  }
  const ModelComparison expected = direct(reference, other, targets);
  const ModelComparison got = compare_models(reference, other, targets);
  EXPECT_EQ(got.tokens, expected.tokens);
  EXPECT_NEAR(got.nll, expected.nll, 1e-5);
  EXPECT_NEAR(got.perplexity, expected.perplexity, 1e-5 * expected.perplexity);
  EXPECT_GT(expected.kl_divergence, 1e-3);
  EXPECT_NEAR(got.kl_divergence, expected.kl_divergence, 1e-5);
  EXPECT_DOUBLE_EQ(got.top1_agreement, expected.top1_agreement);

  const ModelComparison same = compare_models(reference, reference, targets);
  EXPECT_EQ(same.kl_divergence, 0);
  EXPECT_EQ(same.top1_agreement, 1);
  // The divergence has a direction.
  EXPECT_NE(compare_models(other, reference, targets).kl_divergence, got.kl_divergence);
}

// More positions than a chunk of logits holds (48 MiB), and more rows of lm_head than a slice.
INSTANTIATE_TEST_SUITE_P(Sizes, Comparison,
                         ::testing::Values(Sizes{1, 4, 3}, Sizes{40, 16, 50}, Sizes{70, 4096, 1000},
                                           Sizes{420, 8, 40000}));

TEST(ModelComparison, SixteenBitStatesAreComparedInSingle) {
  torch::manual_seed(3);
  const OutputStates states{torch::randn({9, 16}).to(torch::kBFloat16),
                            torch::randn({30, 16}).to(torch::kBFloat16)};
  const OutputStates wide{states.hidden.to(torch::kFloat32), states.lm_head.to(torch::kFloat32)};
  const std::vector<int32_t> targets(9, 4);
  const ModelComparison mixed = compare_models(wide, states, targets);
  EXPECT_EQ(mixed.kl_divergence, 0);
  EXPECT_DOUBLE_EQ(mixed.nll, compare_models(wide, wide, targets).nll);
}

TEST(ModelComparison, NumbersThatAreNotFiniteShow) {
  const OutputStates good{torch::ones({2, 4}), torch::ones({3, 4})};
  OutputStates bad{torch::ones({2, 4}), torch::ones({3, 4})};
  bad.hidden.mutable_data_ptr<float>()[1] = std::nanf("");
  EXPECT_FALSE(std::isfinite(compare_models(good, bad, {0, 1}).nll));
}

template <class E, class F>
void expect_refused(F f, const std::string& words) {
  try {
    f();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const E& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(ModelComparison, Refuses) {
  const OutputStates two{torch::ones({2, 4}), torch::ones({3, 4})};
  const OutputStates three{torch::ones({3, 4}), torch::ones({3, 4})};
  const OutputStates other_vocabulary{torch::ones({2, 4}), torch::ones({5, 4})};
  expect_refused<ShapeError>([&] { compare_models(two, three, {0, 1}); }, "2 and 3 positions");
  expect_refused<ShapeError>([&] { compare_models(two, two, {0}); }, "over 1 targets");
  expect_refused<ShapeError>([&] { compare_models(two, other_vocabulary, {0, 1}); }, "3 and 5");
  expect_refused<ValueError>(
      [&] {
        compare_models(two, two, {0, 3});
      },
      "token 3 at position 1 is outside the vocabulary of 3");
  expect_refused<ValueError>([&] { compare_models(two, two, {-1, 0}); }, "token -1");
  expect_refused<ValueError>(
      [&] {
        compare_models(two, two, {kIgnoreTarget, kIgnoreTarget});
      },
      "none of 2 positions");
}

}  // namespace
}  // namespace qlora::eval
