#include "eval/protocol.h"

#include <algorithm>
#include <span>

#include "core/error.h"

namespace qlora::eval {
namespace {

/// Tokens as one segment; targets are the followers from position first_scored on, which is >= 1.
TokenBatch segment(std::span<const int32_t> tokens, int64_t first_scored) {
  TokenBatch batch;
  const auto count = static_cast<int32_t>(tokens.size());
  batch.tokens.assign(tokens.begin(), tokens.end());
  batch.targets.assign(tokens.size(), kIgnoreTarget);
  for (int64_t t = first_scored; t < count; ++t) batch.targets[t - 1] = tokens[t];
  batch.segment_starts = {0, count};
  return batch;
}

}  // namespace

int64_t Protocol::target_tokens() const {
  int64_t count = 0;
  for (const TokenBatch& batch : segments) count += batch.target_tokens();
  return count;
}

Protocol window_protocol(const std::vector<int32_t>& stream, int64_t seq_len, int64_t stride) {
  QLORA_CHECK(seq_len >= 2, ValueError,
              "[perplexity] seq-len is {}, has to be at least 2: a window of one token predicts "
              "nothing",
              seq_len);
  QLORA_CHECK(stride >= 1 && stride <= seq_len, ValueError,
              "[perplexity] stride is {}, allowed are 1 to seq-len ({}): a larger one would leave "
              "tokens out",
              stride, seq_len);
  const auto count = static_cast<int64_t>(stream.size());
  QLORA_CHECK(count >= 2, ValueError,
              "[perplexity] the text has {} tokens, at least 2 are needed: one to predict, and one "
              "before it",
              count);

  Protocol protocol;
  protocol.description = fmt::format(
      "{} tokens in windows of {}, stride {}, {}", count, seq_len, stride,
      stride == seq_len ? "no context carried between windows" : "each token scored once");
  int64_t scored_end = 0;  // tokens before it have had their turn
  for (int64_t begin = 0; begin < count; begin += stride) {
    const int64_t end = std::min(begin + seq_len, count);
    const int64_t first_scored = std::max<int64_t>(scored_end - begin, 1);
    if (begin + first_scored < end) {
      protocol.segments.push_back(
          segment(std::span(stream).subspan(begin, end - begin), first_scored));
    }
    scored_end = end;
    if (end == count) break;
  }
  return protocol;
}

Protocol per_text_protocol(const std::vector<std::vector<int32_t>>& texts, int64_t max_length) {
  QLORA_CHECK(max_length >= 2, ValueError, "[perplexity] max-length is {}, has to be at least 2",
              max_length);
  Protocol protocol;
  int64_t cut = 0;
  for (const std::vector<int32_t>& text : texts) {
    if (text.size() < 2) {
      ++protocol.skipped;
      continue;
    }
    const auto length = std::min<int64_t>(static_cast<int64_t>(text.size()), max_length);
    cut += length < static_cast<int64_t>(text.size());
    protocol.segments.push_back(segment(std::span(text).first(length), 1));
  }
  QLORA_CHECK(!protocol.segments.empty(), ValueError,
              "[perplexity] none of the {} texts has 2 tokens, there is nothing to predict",
              texts.size());
  protocol.description = fmt::format(
      "{} texts each on its own, cut to {} tokens ({} cut), weighted by predictions, {} under 2 "
      "tokens skipped",
      protocol.segments.size(), max_length, cut, protocol.skipped);
  return protocol;
}

Protocol block_protocol(const data::ExampleSet& rows, int64_t blocks) {
  QLORA_CHECK(blocks <= rows.size(), ValueError,
              "[perplexity] --blocks asks for {} rows, {} has {}", blocks, rows.name, rows.size());
  const int64_t count = blocks > 0 ? blocks : rows.size();
  Protocol protocol;
  for (int64_t i = 0; i < count; ++i) {
    protocol.segments.push_back(segment(rows.examples[i].tokens, 1));
  }
  protocol.description =
      fmt::format("{} rows of {} tokens each on its own, every next token predicted", count,
                  rows.examples.empty() ? 0 : rows.examples.front().tokens.size());
  return protocol;
}

Protocol example_protocol(const data::ExampleSet& examples, const data::ExampleOptions& options) {
  Protocol protocol;
  for (const data::Example& example : examples.examples) {
    TokenBatch batch = segment(example.tokens, 1);
    for (size_t t = 1; t < example.tokens.size(); ++t) {
      if (!example.learn[t]) batch.targets[t - 1] = kIgnoreTarget;
    }
    protocol.segments.push_back(std::move(batch));
  }
  protocol.description = fmt::format(
      "{} rows each on its own, at most {} tokens, loss on {}", examples.size(), options.max_length,
      options.loss_on == data::LossOn::kResponse ? "the response" : "all tokens");
  return protocol;
}

std::vector<TokenBatch> group_segments(const std::vector<TokenBatch>& segments,
                                       int64_t token_budget) {
  std::vector<TokenBatch> groups;
  for (const TokenBatch& next : segments) {
    const auto length = static_cast<int64_t>(next.tokens.size());
    if (groups.empty() ||
        static_cast<int64_t>(groups.back().tokens.size()) + length > token_budget) {
      groups.push_back(next);
      continue;
    }
    TokenBatch& group = groups.back();
    const auto shift = static_cast<int32_t>(group.tokens.size());
    group.tokens.insert(group.tokens.end(), next.tokens.begin(), next.tokens.end());
    group.targets.insert(group.targets.end(), next.targets.begin(), next.targets.end());
    for (size_t s = 1; s < next.segment_starts.size(); ++s) {
      group.segment_starts.push_back(shift + next.segment_starts[s]);
    }
  }
  return groups;
}

}  // namespace qlora::eval
