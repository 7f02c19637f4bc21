#include "exporter/calibration_set.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"

namespace qlora::exporter {
namespace {

/// Indices of the chosen samples, rising.
std::vector<int64_t> choose(int64_t available, int64_t wanted, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(available));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (wanted >= available) return order;
  Rng rng(seed);
  rng.shuffle(order);
  order.resize(static_cast<size_t>(wanted));
  std::sort(order.begin(), order.end());
  return order;
}

void check_tokens(const data::Example& example, int64_t index, int64_t length, int64_t vocab_size) {
  for (int64_t t = 0; t < length; ++t) {
    const int32_t token = example.tokens[static_cast<size_t>(t)];
    QLORA_CHECK(token >= 0 && token < vocab_size, ValueError,
                "[export] calibration sample {} has token {} at position {}, outside the "
                "vocabulary of {}; does the data belong to this model?",
                index, token, t, vocab_size);
  }
}

void append(const data::Example& example, int64_t length, TokenBatch& batch) {
  if (batch.segment_starts.empty()) batch.segment_starts.push_back(0);
  batch.tokens.insert(batch.tokens.end(), example.tokens.begin(), example.tokens.begin() + length);
  batch.targets.resize(batch.tokens.size(), kIgnoreTarget);
  batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
}

}  // namespace

CalibrationSet make_calibration_set(const data::ExampleSet& examples,
                                    const CalibrationOptions& options, int64_t vocab_size,
                                    RunLog& log) {
  CalibrationSet set{.available = examples.size()};
  TokenBatch batch;
  for (const int64_t index : choose(examples.size(), options.samples, options.seed)) {
    if (options.max_tokens > 0 && set.tokens >= options.max_tokens) break;
    const data::Example& example = examples.examples[static_cast<size_t>(index)];
    const auto whole = static_cast<int64_t>(example.tokens.size());
    const int64_t length = std::min(whole, options.max_seq_length);
    if (length == 0) continue;
    check_tokens(example, index, length, vocab_size);
    const auto held = static_cast<int64_t>(batch.tokens.size());
    if (held > 0 && held + length > kCalibrationBatchTokens) {
      set.batches.push_back(std::move(batch));
      batch = {};
    }
    append(example, length, batch);
    set.samples += 1;
    set.tokens += length;
    set.cut += length < whole;
  }
  if (!batch.tokens.empty()) set.batches.push_back(std::move(batch));
  QLORA_CHECK(set.tokens >= kLeastCalibrationTokens, ValueError,
              "[export] {} gives {} calibration samples with {} tokens in all, allowed at least {} "
              "tokens; give more data with --dataset-name",
              examples.name, set.samples, set.tokens, kLeastCalibrationTokens);
  if (set.samples < options.samples &&
      (options.max_tokens == 0 || set.tokens < options.max_tokens)) {
    log.warn(fmt::format("calibration: {} samples were asked for, {} has {} ({} tokens)",
                         options.samples, examples.name, set.samples, set.tokens));
  }
  if (set.cut > 0) {
    log.notice(fmt::format("calibration: {} of {} samples are longer than {} tokens and were cut",
                           set.cut, set.samples, options.max_seq_length));
  }
  return set;
}

}  // namespace qlora::exporter
