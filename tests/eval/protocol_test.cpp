#include "eval/protocol.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "core/error.h"

namespace qlora::eval {
namespace {

std::vector<int32_t> stream(int32_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), 1000);
  return tokens;
}

/// What the loop of transformers' perplexity page scores: pairs (window begin, token index).
std::vector<std::pair<int64_t, int64_t>> sliding_window_of_transformers(int64_t count,
                                                                        int64_t max_length,
                                                                        int64_t stride) {
  std::vector<std::pair<int64_t, int64_t>> scored;
  int64_t prev_end = 0;
  for (int64_t begin = 0; begin < count; begin += stride) {
    const int64_t end = std::min(begin + max_length, count);
    const int64_t target_length = end - prev_end;
    // labels[:-target_length] = -100; the model shifts labels by one and drops the first.
    for (int64_t i = std::max(end - target_length, begin + 1); i < end; ++i) {
      scored.emplace_back(begin, i);
    }
    prev_end = end;
    if (end == count) break;
  }
  return scored;
}

void expect_sound(const TokenBatch& batch) {
  ASSERT_EQ(batch.tokens.size(), batch.targets.size());
  ASSERT_GE(batch.segment_starts.size(), 2U);
  ASSERT_EQ(batch.segment_starts.front(), 0);
  ASSERT_EQ(batch.segment_starts.back(), static_cast<int32_t>(batch.tokens.size()));
  for (size_t s = 1; s < batch.segment_starts.size(); ++s) {
    const int32_t last = batch.segment_starts[s] - 1;
    ASSERT_EQ(batch.targets[last], kIgnoreTarget);  // nothing follows inside the segment
    for (int32_t t = batch.segment_starts[s - 1]; t < last; ++t) {
      if (batch.targets[t] != kIgnoreTarget) {
        ASSERT_EQ(batch.targets[t], batch.tokens[t + 1]);
      }
    }
  }
}

TEST(WindowProtocol, ScoresWhatTransformersScoresForEverySmallCase) {
  for (int32_t count = 2; count <= 14; ++count) {
    for (int64_t seq_len = 2; seq_len <= 16; ++seq_len) {
      for (int64_t stride = 1; stride <= seq_len; ++stride) {
        const Protocol protocol = window_protocol(stream(count), seq_len, stride);
        std::vector<std::pair<int64_t, int64_t>> scored;
        std::set<int64_t> once;
        for (const TokenBatch& window : protocol.segments) {
          expect_sound(window);
          ASSERT_LE(static_cast<int64_t>(window.tokens.size()), seq_len);
          const int64_t begin = window.tokens[0] - 1000;
          for (size_t t = 0; t < window.tokens.size(); ++t) {
            if (window.targets[t] == kIgnoreTarget) continue;
            scored.emplace_back(begin, window.targets[t] - 1000);
            ASSERT_TRUE(once.insert(window.targets[t] - 1000).second) << "scored twice";
          }
        }
        ASSERT_EQ(scored, sliding_window_of_transformers(count, seq_len, stride))
            << count << " tokens, window " << seq_len << ", stride " << stride;
        ASSERT_EQ(protocol.target_tokens(), static_cast<int64_t>(scored.size()));
        if (stride < seq_len) {
          ASSERT_EQ(protocol.target_tokens(), count - 1) << "every token but the first, once";
        }
      }
    }
  }
}

TEST(WindowProtocol, DescriptionNamesTheSizes) {
  const Protocol protocol = window_protocol(stream(100), 32, 16);
  EXPECT_EQ(protocol.description, "100 tokens in windows of 32, stride 16, each token scored once");
  EXPECT_EQ(window_protocol(stream(100), 32, 32).description,
            "100 tokens in windows of 32, stride 32, no context carried between windows");
}

TEST(WindowProtocol, RefusesSizesOutOfRange) {
  EXPECT_THROW(window_protocol(stream(10), 1, 1), ValueError);
  EXPECT_THROW(window_protocol(stream(10), 4, 0), ValueError);
  EXPECT_THROW(window_protocol(stream(10), 4, 5), ValueError);
  EXPECT_THROW(window_protocol(stream(1), 4, 4), ValueError);
  EXPECT_THROW(window_protocol({}, 4, 4), ValueError);
}

TEST(PerTextProtocol, CutsSkipsAndCounts) {
  const Protocol protocol = per_text_protocol({{1, 2, 3}, {}, {4}, {5, 6, 7, 8, 9}, {1, 1}}, 4);
  ASSERT_EQ(protocol.segments.size(), 3U);
  EXPECT_EQ(protocol.skipped, 2);
  EXPECT_EQ(protocol.segments[1].tokens, (std::vector<int32_t>{5, 6, 7, 8}));
  EXPECT_EQ(protocol.segments[1].targets, (std::vector<int32_t>{6, 7, 8, kIgnoreTarget}));
  EXPECT_EQ(protocol.target_tokens(), 2 + 3 + 1);
  EXPECT_EQ(protocol.description,
            "3 texts each on its own, cut to 4 tokens (1 cut), weighted by predictions, 2 under 2 "
            "tokens skipped");
}

TEST(PerTextProtocol, RefusesNothingToPredict) {
  EXPECT_THROW(per_text_protocol({{1}, {}}, 8), ValueError);
  EXPECT_THROW(per_text_protocol({}, 8), ValueError);
  EXPECT_THROW(per_text_protocol({{1, 2}}, 1), ValueError);
}

data::ExampleSet rows(int64_t count, int64_t length) {
  data::ExampleSet set;
  set.name = "rows";
  for (int64_t i = 0; i < count; ++i) {
    data::Example example;
    for (int64_t t = 0; t < length; ++t) example.tokens.push_back(static_cast<int32_t>(10 * i + t));
    example.learn.assign(length, 1);
    set.examples.push_back(example);
  }
  return set;
}

TEST(BlockProtocol, TakesTheFirstRowsWhole) {
  const Protocol protocol = block_protocol(rows(5, 8), 2);
  ASSERT_EQ(protocol.segments.size(), 2U);
  EXPECT_EQ(protocol.target_tokens(), 2 * 7);
  EXPECT_EQ(protocol.segments[1].tokens.front(), 10);
  EXPECT_EQ(protocol.description, "2 rows of 8 tokens each on its own, every next token predicted");
  EXPECT_EQ(block_protocol(rows(5, 8), 0).segments.size(), 5U);
  EXPECT_THROW(block_protocol(rows(5, 8), 6), ValueError);
}

TEST(ExampleProtocol, ScoresWhatTrainingLearns) {
  data::ExampleSet set;
  set.name = "rows";
  set.examples = {{.tokens = {1, 2, 3, 4}, .learn = {0, 0, 1, 1}},
                  {.tokens = {5, 6}, .learn = {1, 1}}};
  const Protocol protocol = example_protocol(set, {});
  ASSERT_EQ(protocol.segments.size(), 2U);
  EXPECT_EQ(protocol.segments[0].targets,
            (std::vector<int32_t>{kIgnoreTarget, 3, 4, kIgnoreTarget}));
  EXPECT_EQ(protocol.segments[1].targets, (std::vector<int32_t>{6, kIgnoreTarget}));
  EXPECT_NE(protocol.description.find("loss on the response"), std::string::npos);
}

TEST(GroupSegments, FillsBatchesInOrderAndKeepsSegmentsApart) {
  std::vector<TokenBatch> segments;
  for (const int64_t length : {3, 2, 6, 9, 1, 1}) {
    for (const TokenBatch& row : block_protocol(rows(1, length), 0).segments) {
      segments.push_back(row);
    }
  }
  const auto groups = group_segments(segments, 6);
  ASSERT_EQ(groups.size(), 4U);
  EXPECT_EQ(groups[0].segment_starts, (std::vector<int32_t>{0, 3, 5}));
  EXPECT_EQ(groups[1].segment_starts, (std::vector<int32_t>{0, 6}));
  EXPECT_EQ(groups[2].segment_starts, (std::vector<int32_t>{0, 9}));  // alone: over the budget
  EXPECT_EQ(groups[3].segment_starts, (std::vector<int32_t>{0, 1, 2}));
  int64_t targets = 0;
  for (const TokenBatch& group : groups) {
    expect_sound(group);
    targets += group.target_tokens();
  }
  EXPECT_EQ(targets, 2 + 1 + 5 + 8);
}

}  // namespace
}  // namespace qlora::eval
