#include "eval/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "tests/eval/tiny_model.h"

namespace qlora::eval {
namespace {

bool is_utf8(std::string_view text) {
  try {
    return !nlohmann::json(std::string(text)).dump().empty();
  } catch (const nlohmann::json::exception&) {
    return false;
  }
}

/// The whole text again for every token: no cache.
std::vector<int32_t> greedy_without_cache(model::Decoder& model, std::vector<int32_t> text,
                                          int64_t count) {
  std::vector<int32_t> answer;
  for (int64_t n = 0; n < count; ++n) {
    TokenBatch batch;
    batch.tokens = text;
    batch.targets.assign(text.size(), kIgnoreTarget);
    batch.segment_starts = {0, static_cast<int32_t>(text.size())};
    const torch::Tensor logits = model.logits(batch).contiguous();  // [T, V]
    const float* last = logits.const_data_ptr<float>() + (logits.size(0) - 1) * logits.size(1);
    answer.push_back(static_cast<int32_t>(std::max_element(last, last + logits.size(1)) - last));
    text.push_back(answer.back());
  }
  return answer;
}

class GenerateTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TemporaryFolder();
    testing::write_tiny_checkpoint(folder_->path(), {.max_positions = 48});
    model_ = new model::Decoder(testing::load_tiny(folder_->path()));
    tokenizer_ = data::load_tokenizer(folder_->path()).release();
  }
  static void TearDownTestSuite() {
    delete tokenizer_;
    delete model_;
    delete folder_;
  }
  static Generation run(const std::string& prompt, const GenerateOptions& options) {
    return generate(*model_, *tokenizer_, tokenizer_->encode(prompt), options);
  }
  static inline testing::TemporaryFolder* folder_ = nullptr;
  static inline model::Decoder* model_ = nullptr;
  static inline const data::Tokenizer* tokenizer_ = nullptr;
};

TEST_F(GenerateTest, GreedyWithTheCacheEqualsGreedyWithout) {
  for (const char* prompt : {"a", "The cat is", "x = 1;\n"}) {
    const auto ids = tokenizer_->encode(prompt);
    const Generation got = run(prompt, {.max_new_tokens = 16});
    std::vector<int32_t> want = greedy_without_cache(*model_, ids, 16);
    want.erase(std::find(want.begin(), want.end(), testing::kTinyEndOfText), want.end());
    EXPECT_EQ(got.tokens, want) << prompt;
    EXPECT_EQ(got.prompt_tokens, static_cast<int64_t>(ids.size()));
  }
}

TEST_F(GenerateTest, EqualSeedsGiveEqualAnswersAndOthersOthers) {
  GenerateOptions options{.max_new_tokens = 24, .sampling = {.temperature = 1}, .seed = 5};
  const auto first = run("The", options).tokens;
  EXPECT_EQ(run("The", options).tokens, first);
  std::set<std::vector<int32_t>> answers = {first};
  for (options.seed = 6; options.seed < 12; ++options.seed)
    answers.insert(run("The", options).tokens);
  EXPECT_EQ(answers.size(), 7U);
}

TEST_F(GenerateTest, TopKOneIsGreedy) {
  const GenerateOptions sampled{
      .max_new_tokens = 12, .sampling = {.temperature = 1, .top_k = 1}, .seed = 3};
  EXPECT_EQ(run("The", sampled).tokens, run("The", {.max_new_tokens = 12}).tokens);
}

TEST_F(GenerateTest, StopsAtTheLengthThatWasAskedFor) {
  const Generation one = run("The", {.max_new_tokens = 1});
  EXPECT_LE(one.tokens.size(), 1U);
  const Generation some = run("The", {.max_new_tokens = 9});
  if (some.stop == StopReason::kMaxNewTokens) {
    EXPECT_EQ(some.tokens.size(), 9U);
  }
}

TEST_F(GenerateTest, StopsWhereTheModelKnowsNoFurtherPosition) {
  const std::string prompt(40, 'x');
  const Generation generation = run(prompt, {.max_new_tokens = 100});
  if (generation.stop == StopReason::kContextIsFull) {
    EXPECT_EQ(generation.tokens.size(), 8U);
  } else {
    EXPECT_EQ(generation.stop, StopReason::kEndOfText);
    EXPECT_LT(generation.tokens.size(), 8U);
  }
}

TEST_F(GenerateTest, StopsAtEveryEndTokenOfTheConfig) {
  // What greedy writes third becomes an end token of a second copy of the model.
  const auto plain = run("The cat", {.max_new_tokens = 8}).tokens;
  ASSERT_GE(plain.size(), 3U);
  const testing::TemporaryFolder folder;
  testing::write_tiny_checkpoint(folder.path(), {.max_positions = 48});
  auto config = nlohmann::json::parse(testing::read_text(folder / "config.json"));
  config["eos_token_id"] = {testing::kTinyImEnd, plain[2]};
  testing::write_text(folder / "config.json", config.dump());
  model::Decoder model = testing::load_tiny(folder.path());
  const Generation stopped =
      generate(model, *tokenizer_, tokenizer_->encode("The cat"), {.max_new_tokens = 8});
  const auto first = std::find(plain.begin(), plain.end(), plain[2]);
  EXPECT_EQ(stopped.tokens, std::vector<int32_t>(plain.begin(), first));
  EXPECT_EQ(stopped.stop, StopReason::kEndOfText);
}

TEST_F(GenerateTest, PiecesAreUtf8AndJoinedAreTheText) {
  // Random bytes make broken and whole multi-byte characters.
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::string joined;
    const GenerateOptions options{
        .max_new_tokens = 40, .sampling = {.temperature = 2}, .seed = seed};
    const Generation generation = generate(*model_, *tokenizer_, tokenizer_->encode("é"), options,
                                           [&](std::string_view piece) {
                                             EXPECT_TRUE(is_utf8(piece));
                                             EXPECT_FALSE(piece.empty());
                                             joined += piece;
                                           });
    EXPECT_EQ(joined, generation.text);
    std::vector<int32_t> known;
    for (const int32_t id : generation.tokens) {
      if (id < tokenizer_->vocab_size()) known.push_back(id);
    }
    EXPECT_EQ(generation.text, tokenizer_->decode(known));
  }
}

TEST_F(GenerateTest, RefusesPromptsThatDoNotFit) {
  EXPECT_THROW(generate(*model_, *tokenizer_, {}, {}), ValueError);
  EXPECT_THROW(generate(*model_, *tokenizer_, std::vector<int32_t>(48, 1), {}), ValueError);
  EXPECT_NO_THROW(generate(*model_, *tokenizer_, std::vector<int32_t>(47, 1), {}));
  EXPECT_THROW(generate(*model_, *tokenizer_, {-1}, {}), ValueError);
  EXPECT_THROW(generate(*model_, *tokenizer_, {testing::kTinyVocabulary}, {}), ValueError);
}

TEST(StopReason, HasNames) {
  EXPECT_EQ(stop_reason_name(StopReason::kEndOfText), "end_of_text");
  EXPECT_EQ(stop_reason_name(StopReason::kMaxNewTokens), "max_new_tokens");
  EXPECT_EQ(stop_reason_name(StopReason::kContextIsFull), "context_is_full");
}

}  // namespace
}  // namespace qlora::eval
