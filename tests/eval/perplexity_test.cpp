#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "tests/eval/tiny_model.h"

namespace qlora::eval {
namespace {

std::vector<int32_t> random_tokens(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng.below(testing::kTinyVocabulary));
  return tokens;
}

/// −log softmax(logits)[target], summed over the targets of one segment, in double.
double nll_sum_from_logits(model::Decoder& model, const TokenBatch& segment) {
  const torch::Tensor logits = model.logits(segment).contiguous();  // [T, V]
  const float* row = logits.const_data_ptr<float>();
  double sum = 0;
  for (size_t t = 0; t < segment.tokens.size(); ++t, row += logits.size(1)) {
    if (segment.targets[t] == kIgnoreTarget) continue;
    double highest = row[0], z = 0;
    for (int64_t v = 0; v < logits.size(1); ++v) highest = std::max<double>(highest, row[v]);
    for (int64_t v = 0; v < logits.size(1); ++v) z += std::exp(row[v] - highest);
    sum += highest + std::log(z) - row[segment.targets[t]];
  }
  return sum;
}

class LiveCounter final : public RunLog {
 public:
  void notice(const std::string&) override {}
  void warn(const std::string&) override {}
  void live(const std::string&) override { ++count; }
  void event(const std::string&, const nlohmann::json&) override {}
  int count = 0;
};

class PerplexityTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder();
    testing::write_tiny_checkpoint(folder_->path());
    model_ = new model::Decoder(testing::load_tiny(folder_->path()));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete folder_;
  }
  static inline testing::TemporaryFolder* folder_ = nullptr;
  static inline model::Decoder* model_ = nullptr;
  NullLog log_;
};

void expect_matches_logits(model::Decoder& model, const Protocol& protocol, int64_t budget) {
  double sum = 0;
  for (const TokenBatch& segment : protocol.segments) sum += nll_sum_from_logits(model, segment);
  const double mean = sum / static_cast<double>(protocol.target_tokens());
  NullLog log;
  const PerplexityResult result = perplexity(model, protocol, log, budget);
  EXPECT_EQ(result.tokens, protocol.target_tokens());
  EXPECT_NEAR(result.nll, mean, 2e-6 * mean);
  EXPECT_NEAR(result.perplexity, std::exp(mean), 2e-5 * std::exp(mean));
  EXPECT_EQ(result.protocol, protocol.description);
  EXPECT_GT(result.seconds, 0);
}

TEST_F(PerplexityTest, WindowsEqualTheLogits) {
  expect_matches_logits(*model_, window_protocol(random_tokens(300, 1), 64, 64), 1);
  expect_matches_logits(*model_, window_protocol(random_tokens(300, 2), 64, 20), 2048);
}

TEST_F(PerplexityTest, TextsOfManyLengthsEqualTheLogitsHoweverTheyAreGrouped) {
  std::vector<std::vector<int32_t>> texts;
  for (int64_t i = 0; i < 40; ++i) texts.push_back(random_tokens(i % 13, 10 + i));
  const Protocol protocol = per_text_protocol(texts, 9);
  for (const int64_t budget : {1, 10, 64, 100000}) {
    expect_matches_logits(*model_, protocol, budget);
  }
}

TEST_F(PerplexityTest, AnotherTextInTheBatchChangesNothing) {
  const auto text = random_tokens(20, 3);
  const auto alone = perplexity(*model_, per_text_protocol({text}, 64), log_);
  const auto twice = perplexity(*model_, per_text_protocol({text, text}, 64), log_);
  EXPECT_NEAR(alone.nll, twice.nll, 1e-6);
  EXPECT_EQ(twice.tokens, 2 * alone.tokens);
}

TEST_F(PerplexityTest, AModelThatKnowsNothingIsNearTheVocabulary) {
  const auto result = perplexity(*model_, per_text_protocol({random_tokens(400, 4)}, 400), log_);
  EXPECT_GT(result.nll, std::log(testing::kTinyVocabulary) - 0.3);
}

TEST_F(PerplexityTest, RefusesBatchesWithoutATarget) {
  EXPECT_THROW(perplexity(*model_, std::vector<TokenBatch>{}, log_), ValueError);
  const TokenBatch none = {{1, 2}, {kIgnoreTarget, kIgnoreTarget}, {0, 2}};
  EXPECT_THROW(perplexity(*model_, std::vector<TokenBatch>{none}, log_), ValueError);
}

TEST_F(PerplexityTest, ShortEvaluationsShowNoProgress) {
  LiveCounter log;
  perplexity(*model_, per_text_protocol({random_tokens(20, 5)}, 64), log);
  EXPECT_EQ(log.count, 0);
}

}  // namespace
}  // namespace qlora::eval
