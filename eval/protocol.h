#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/token_batch.h"
#include "data/example_builder.h"

namespace qlora::eval {

/// What a perplexity is taken over: which tokens are predicted, and from what context.
/// Two numbers may be compared where the descriptions are the same.
struct Protocol {
  std::string description;           // one line, printed with the number
  std::vector<TokenBatch> segments;  // one each, in order
  int64_t skipped = 0;               // texts with fewer than 2 tokens

  int64_t target_tokens() const;
};

/// One stream of tokens in windows: every token is predicted once, but the first of each window
/// that has no context before it.
///   seq_len   tokens in a window, at least 2
///   stride    tokens between the beginnings of windows, 1 … seq_len; below seq_len the last
///             stride tokens of a window are scored with the others as context
///   throws    ValueError for sizes out of range or a stream under 2 tokens
///   Source    transformers, docs/source/en/perplexity.md ("sliding window"), with the mean taken
///             over the predictions
Protocol window_protocol(const std::vector<int32_t>& stream, int64_t seq_len, int64_t stride);

/// Each text on its own, cut to max_length tokens and weighted by its predictions.
///   max_length  at least 2
///   throws      ValueError for max_length out of range or where no text has 2 tokens
Protocol per_text_protocol(const std::vector<std::vector<int32_t>>& texts, int64_t max_length);

/// Each row of ids on its own, all but its first token predicted.
///   blocks    of the first rows; 0: all
///   throws    ValueError where there are fewer rows
Protocol block_protocol(const data::ExampleSet& rows, int64_t blocks);

/// Each example on its own, scored where training would learn: what a run's evaluation measures.
Protocol example_protocol(const data::ExampleSet& examples, const data::ExampleOptions& options);

/// Joins neighbours into batches of at most token_budget tokens; a larger segment stays alone.
/// Segments do not see each other, so that the sums stay the same but for rounding.
std::vector<TokenBatch> group_segments(const std::vector<TokenBatch>& segments,
                                       int64_t token_budget);

}  // namespace qlora::eval
