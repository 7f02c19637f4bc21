#include "model/token_pass.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <functional>

#include "core/error.h"

namespace qlora::model {

namespace {

constexpr size_t kRowStep = 32;

/// Repeats the first segments, and of the last one as much as there is room for.
void append_beginning(TokenBatch& batch, size_t most_tokens) {
  const std::vector<int32_t> starts = batch.segment_starts;
  const std::vector<int32_t> tokens = batch.tokens;
  for (size_t s = 0; s + 1 < starts.size() && batch.tokens.size() < most_tokens; ++s) {
    const size_t length = starts[s + 1] - starts[s];
    const size_t count = std::min(length, most_tokens - batch.tokens.size());
    const auto begin = tokens.begin() + starts[s];
    batch.tokens.insert(batch.tokens.end(), begin, begin + static_cast<ptrdiff_t>(count));
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
}

}  // namespace

void check_segments(const TokenBatch& batch) {
  const auto& starts = batch.segment_starts;
  const bool sound =
      starts.size() >= 2 && starts.front() == 0 &&
      starts.back() == static_cast<int32_t>(batch.tokens.size()) &&
      batch.targets.size() == batch.tokens.size() &&
      std::adjacent_find(starts.begin(), starts.end(), std::greater_equal<>()) == starts.end();
  QLORA_CHECK(sound, ShapeError,
              "[model] a batch of {} tokens has {} targets and {} segment starts; allowed: as many "
              "targets as tokens, starts rising from 0 to the number of tokens",
              batch.tokens.size(), batch.targets.size(), starts.size());
}

TokenBatch rounded_up(TokenBatch batch) {
  const size_t missing = (kRowStep - batch.tokens.size() % kRowStep) % kRowStep;
  if (missing == 0) return batch;
  const size_t whole = batch.tokens.size() + missing;
  while (batch.tokens.size() < whole) append_beginning(batch, whole);
  batch.targets.resize(whole, kIgnoreTarget);
  return batch;
}

torch::Tensor embed_tokens(const torch::Tensor& embedding, const std::vector<int32_t>& tokens,
                           double scale) {
  torch::Tensor ids = at::empty({static_cast<int64_t>(tokens.size())}, torch::kInt64);
  for (size_t t = 0; t < tokens.size(); ++t) {
    QLORA_CHECK(tokens[t] >= 0 && tokens[t] < embedding.size(0), ValueError,
                "[model] token {} at position {} is outside the vocabulary of {}; does the "
                "tokenizer belong to this model?",
                tokens[t], t, embedding.size(0));
    ids.mutable_data_ptr<int64_t>()[t] = tokens[t];
  }
  torch::Tensor h = embedding.index_select(0, ids.to(embedding.device())).to(torch::kFloat32);
  return scale == 1 ? h : h.mul_(scale);
}

PassLayout pass_layout(const TokenBatch& batch, const RopeTables& rope, torch::ScalarType dtype) {
  return {.segment_starts = batch.segment_starts,
          .rope = rope.angles(batch.segment_starts),
          .compute_dtype = dtype};
}

}  // namespace qlora::model
