#include "model/token_pass.h"

#include <gtest/gtest.h>

namespace qlora::model {
namespace {

TokenBatch batch_of(const std::vector<int32_t>& lengths) {
  TokenBatch batch{.segment_starts = {0}};
  for (const int32_t length : lengths) {
    for (int32_t t = 0; t < length; ++t) {
      batch.tokens.push_back(100 * static_cast<int32_t>(batch.segment_starts.size()) + t);
    }
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
  batch.targets = batch.tokens;
  return batch;
}

TEST(RoundedUp, RepeatsTheBeginningWithoutTargets) {
  const TokenBatch rounded = rounded_up(batch_of({7, 30}));  // 37 tokens, 27 are missing
  EXPECT_EQ(rounded.segment_starts, (std::vector<int32_t>{0, 7, 37, 44, 64}));
  ASSERT_EQ(rounded.tokens.size(), 64U);
  for (size_t t = 0; t < 27; ++t) EXPECT_EQ(rounded.tokens[37 + t], rounded.tokens[t]);
  for (size_t t = 37; t < 64; ++t) EXPECT_EQ(rounded.targets[t], kIgnoreTarget);
  EXPECT_EQ(rounded.target_tokens(), 37);
  check_segments(rounded);
}

TEST(RoundedUp, AFewTokensAreRepeatedAsOftenAsNeeded) {
  const TokenBatch rounded = rounded_up(batch_of({2, 3}));
  EXPECT_EQ(rounded.tokens.size(), 32U);
  check_segments(rounded);
  for (size_t t = 5; t < 30; ++t) EXPECT_EQ(rounded.tokens[t], rounded.tokens[t - 5]);
}

TEST(RoundedUp, WholeMultiplesStayAsTheyAre) {
  const TokenBatch batch = batch_of({20, 12}), rounded = rounded_up(batch);
  EXPECT_EQ(rounded.tokens, batch.tokens);
  EXPECT_EQ(rounded.segment_starts, batch.segment_starts);
}

}  // namespace
}  // namespace qlora::model
