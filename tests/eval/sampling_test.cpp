#include "eval/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/fields.h"

namespace qlora::eval {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<int32_t> tokens_of(const std::vector<Candidate>& candidates) {
  std::vector<int32_t> tokens;
  for (const Candidate& c : candidates) tokens.push_back(c.token);
  return tokens;
}

double total(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.probability;
  return sum;
}

/// Logits whose softmax is the given distribution.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

/// The definition, without heap or selection: sort everything, then cut.
std::vector<Candidate> reference(std::vector<double> logits, const SamplingOptions& o) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(order.size())) order.resize(o.top_k);
  double sum = 0;
  for (const int32_t t : order) sum += std::exp((logits[t] - logits[order[0]]) / o.temperature);
  std::vector<Candidate> kept;
  double share = 0;
  for (const int32_t t : order) {
    const double p = std::exp((logits[t] - logits[order[0]]) / o.temperature) / sum;
    if (!kept.empty() && (p == 0 || (o.top_p < 1 && share >= o.top_p))) break;
    kept.push_back({t, p});
    share += p;
  }
  for (Candidate& c : kept) c.probability /= share;
  return kept;
}

TEST(Sampling, GreedyTakesTheLargestAndOfEqualsTheLowestId) {
  const std::vector<float> logits = {1.F, 7.F, -3.F, 7.F, 6.999F};
  const auto greedy = next_token_distribution(logits, {});
  EXPECT_EQ(tokens_of(greedy), (std::vector<int32_t>{1}));
  EXPECT_EQ(greedy[0].probability, 1.0);
}

TEST(Sampling, GreedyIgnoresTopKAndTopP) {
  const std::vector<float> logits = {1.F, 2.F};
  EXPECT_EQ(tokens_of(next_token_distribution(logits, {.top_k = 2, .top_p = 0.1})),
            (std::vector<int32_t>{1}));
}

TEST(Sampling, TemperatureOneIsTheSoftmax) {
  const std::vector<double> p = {0.1, 0.2, 0.3, 0.4};
  const auto candidates = next_token_distribution(logits_of(p), {.temperature = 1});
  ASSERT_EQ(tokens_of(candidates), (std::vector<int32_t>{3, 2, 1, 0}));
  for (const Candidate& c : candidates) EXPECT_NEAR(c.probability, p[c.token], 1e-7);
}

TEST(Sampling, TemperatureSharpensAndFlattens) {
  const std::vector<double> p = {0.2, 0.8};
  const auto cold = next_token_distribution(logits_of(p), {.temperature = 0.5});
  EXPECT_NEAR(cold[0].probability, 0.64 / (0.64 + 0.04), 1e-6);
  const auto hot = next_token_distribution(logits_of(p), {.temperature = 2});
  EXPECT_NEAR(hot[0].probability, std::sqrt(0.8) / (std::sqrt(0.8) + std::sqrt(0.2)), 1e-6);
}

TEST(Sampling, TinyTemperatureIsGreedyAndNeverNan) {
  const auto candidates =
      next_token_distribution(std::vector<float>{1.F, 1.5F, -kInf, 1.5F}, {.temperature = 1e-300});
  ASSERT_EQ(tokens_of(candidates), (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(candidates[0].probability, 0.5);
}

TEST(Sampling, HugeLogitsDoNotOverflow) {
  const auto candidates =
      next_token_distribution(std::vector<float>{3e38F, 3e38F, -3e38F}, {.temperature = 1});
  ASSERT_EQ(tokens_of(candidates), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(total(candidates), 1.0);
}

TEST(Sampling, TopKKeepsExactlyKAndOfEqualsTheLowerIds) {
  const std::vector<float> logits = {2.F, 5.F, 2.F, 2.F, 1.F};
  EXPECT_EQ(tokens_of(next_token_distribution(logits, {.temperature = 1, .top_k = 3})),
            (std::vector<int32_t>{1, 0, 2}));
  EXPECT_EQ(next_token_distribution(logits, {.temperature = 1, .top_k = 99}).size(), 5U);
  EXPECT_EQ(next_token_distribution(logits, {.temperature = 1, .top_k = 0}).size(), 5U);
  EXPECT_EQ(tokens_of(next_token_distribution(logits, {.temperature = 1, .top_k = 1})),
            (std::vector<int32_t>{1}));
}

TEST(Sampling, TopPKeepsTheShortestBeginningThatHoldsTheShare) {
  const std::vector<float> logits(4, 0.F);  // a quarter each, exactly
  const auto kept = [&](double top_p) {
    return next_token_distribution(logits, {.temperature = 1, .top_p = top_p}).size();
  };
  EXPECT_EQ(kept(0.0), 1U);  // one token stays, whatever is asked for
  EXPECT_EQ(kept(0.1), 1U);
  EXPECT_EQ(kept(0.25), 1U);
  EXPECT_EQ(kept(0.26), 2U);
  EXPECT_EQ(kept(0.5), 2U);
  EXPECT_EQ(kept(0.75), 3U);
  EXPECT_EQ(kept(0.76), 4U);
  EXPECT_EQ(kept(1.0), 4U);
}

TEST(Sampling, TopPActsOnWhatTopKLeaves) {
  // Of all, token 0 holds 0.5; of the two that top_k leaves it holds 0.625 and is enough for 0.6.
  const auto logits = logits_of({0.5, 0.3, 0.1, 0.1});
  EXPECT_EQ(
      tokens_of(next_token_distribution(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6})),
      (std::vector<int32_t>{0}));
  EXPECT_EQ(tokens_of(next_token_distribution(logits, {.temperature = 1, .top_p = 0.6})),
            (std::vector<int32_t>{0, 1}));
}

TEST(Sampling, TopPOneKeepsTheWholeTail) {
  std::vector<float> logits(50000, 0.F);
  logits[7] = 20.F;
  EXPECT_EQ(next_token_distribution(logits, {.temperature = 1, .top_p = 1}).size(), 50000U);
}

TEST(Sampling, ForbiddenTokensNeverCome) {
  const std::vector<float> logits = {-kInf, 0.F, -kInf, 1.F};
  EXPECT_EQ(tokens_of(next_token_distribution(logits, {.temperature = 1})),
            (std::vector<int32_t>{3, 1}));
}

TEST(Sampling, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogitsOnce) {
  const std::vector<float> logits = {2.F, -1.F, 1.5F};
  const std::vector<int32_t> history = {0, 1, 0, 0};  // repeats count once
  const auto candidates =
      next_token_distribution(logits, {.repetition_penalty = 2, .temperature = 1}, history);
  ASSERT_EQ(tokens_of(candidates), (std::vector<int32_t>{2, 0, 1}));
  const double z = std::exp(1.5) + std::exp(1.0) + std::exp(-2.0);
  EXPECT_NEAR(candidates[0].probability, std::exp(1.5) / z, 1e-12);
  EXPECT_NEAR(candidates[1].probability, std::exp(1.0) / z, 1e-12);
  EXPECT_NEAR(candidates[2].probability, std::exp(-2.0) / z, 1e-12);
}

TEST(Sampling, RepetitionPenaltyWorksWithGreedy) {
  const std::vector<int32_t> history = {0};
  EXPECT_EQ(tokens_of(next_token_distribution(std::vector<float>{2.F, 1.5F},
                                              {.repetition_penalty = 2}, history)),
            (std::vector<int32_t>{1}));
}

TEST(Sampling, EqualsTheSortedDefinitionOnRandomInputs) {
  std::mt19937 engine(7);
  for (int round = 0; round < 2000; ++round) {
    const size_t size = 1 + engine() % 40;
    std::vector<float> logits(size);
    // Few distinct values, so that ties at every border are common.
    for (float& logit : logits) logit = static_cast<float>(engine() % 5) * 0.75F - 1.F;
    const SamplingOptions options{.temperature = 0.25 + static_cast<double>(engine() % 8) / 4,
                                  .top_k = static_cast<int64_t>(engine() % 12),
                                  .top_p = static_cast<double>(engine() % 11) / 10};
    const auto got = next_token_distribution(logits, options);
    const auto want = reference({logits.begin(), logits.end()}, options);
    // The two sum in different orders: a border that the sum hits exactly may fall either way.
    if (got.size() != want.size()) {
      double share = 0;
      const auto all = reference({logits.begin(), logits.end()},
                                 {.temperature = options.temperature, .top_k = options.top_k});
      for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) share += all[i].probability;
      ASSERT_NEAR(share, options.top_p, 1e-12);
      continue;
    }
    ASSERT_EQ(tokens_of(got), tokens_of(want));
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i].probability, want[i].probability, 1e-12);
      ASSERT_GT(got[i].probability, 0);
    }
    ASSERT_NEAR(total(got), 1, 1e-12);
  }
}

TEST(Sampling, RefusesWhatIsNoDistribution) {
  const SamplingOptions plain{.temperature = 1};
  EXPECT_THROW(next_token_distribution({}, plain), ValueError);
  EXPECT_THROW(next_token_distribution(std::vector<float>{0.F, kNan}, plain), ValueError);
  EXPECT_THROW(next_token_distribution(std::vector<float>{0.F, kInf}, plain), ValueError);
  EXPECT_THROW(next_token_distribution(std::vector<float>{-kInf, -kInf}, plain), ValueError);
  EXPECT_THROW(next_token_distribution(std::vector<float>{0.F, kNan}, {}), ValueError);
  const std::vector<int32_t> outside = {2};
  const SamplingOptions penalised{.repetition_penalty = 1.1};
  EXPECT_THROW(next_token_distribution(std::vector<float>{0.F, 1.F}, penalised, outside),
               ValueError);
  const std::vector<int32_t> negative = {-1};
  EXPECT_THROW(next_token_distribution(std::vector<float>{0.F, 1.F}, penalised, negative),
               ValueError);
}

TEST(Sampling, DrawWalksTheRunningSum) {
  const std::vector<Candidate> candidates = {{4, 0.5}, {9, 0.25}, {1, 0.25}};
  EXPECT_EQ(draw_token(candidates, 0.0), 4);
  EXPECT_EQ(draw_token(candidates, 0.4999), 4);
  EXPECT_EQ(draw_token(candidates, 0.5), 9);
  EXPECT_EQ(draw_token(candidates, 0.7499), 9);
  EXPECT_EQ(draw_token(candidates, 0.75), 1);
  EXPECT_EQ(draw_token(candidates, 0.9999999), 1);
}

TEST(Sampling, DrawSurvivesASumThatEndsBelowOne) {
  const std::vector<Candidate> candidates = {{4, 0.3}, {9, 0.3}};
  EXPECT_EQ(draw_token(candidates, 0.99), 9);
}

TEST(Sampling, FrequenciesFollowTheDistribution) {
  const std::vector<double> p = {0.05, 0.6, 0.1, 0.25};
  const auto candidates = next_token_distribution(logits_of(p), {.temperature = 1});
  std::mt19937_64 engine(11);
  std::uniform_real_distribution<double> uniform(0, 1);
  constexpr int kDraws = 200000;
  std::vector<int> counts(p.size());
  for (int i = 0; i < kDraws; ++i) ++counts[draw_token(candidates, uniform(engine))];
  double chi_square = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * kDraws;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, one false alarm in 1000; the seed is fixed
}

TEST(GenerateOptions, RangesAreChecked) {
  GenerateOptions options;
  EXPECT_NO_THROW(validate_fields(options));
  EXPECT_THROW(override_field(options, "top_p=1.5"), ConfigError);
  EXPECT_THROW(override_field(options, "temperature=-1"), ConfigError);
  EXPECT_THROW(override_field(options, "top_k=-1"), ConfigError);
  EXPECT_THROW(override_field(options, "repetition_penalty=0"), ConfigError);
  EXPECT_THROW(override_field(options, "max_new_tokens=0"), ConfigError);
  override_field(options, "top_p=0.9");
  EXPECT_EQ(options.sampling.top_p, 0.9);
}

}  // namespace
}  // namespace qlora::eval
