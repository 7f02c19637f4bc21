#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "core/token_batch.h"
#include "data/data_options.h"
#include "data/example_builder.h"

namespace qlora::data {

/// All micro-batches of one optimizer step.
struct StepBatch {
  std::vector<TokenBatch> micro_batches;
  int64_t epoch = 0;  // from 0

  int64_t target_tokens() const;  // of the whole step: the divisor of its loss
  int64_t tokens() const;
};

/// The training order: shuffles, packs and cuts a set of examples into optimizer steps.
///   Order     decided by (seed, epoch) alone, the same on every machine
///   Packing   first fit, decreasing, into rows of max_length tokens; examples stay segments of
///             their own, and nothing is padded
///   Tail      the last step of an epoch takes what is left, with its own token count as divisor
///   Lifetime  keeps a reference to the set
class Batches {
 public:
  /// throws   ValueError if the set is empty or an example has no target
  Batches(const ExampleSet& set, const BatchOptions& options, uint64_t seed);

  StepBatch next();  // goes on with the next epoch after the last step of one
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t rows_per_epoch() const { return rows_per_epoch_; }  // examples, or packed rows
  double epochs_done() const;

  /// The cursor: what a checkpoint stores.
  struct State {
    int64_t epoch = 0;
    int64_t step = 0;  // steps taken in this epoch
    uint64_t seed = 0;
    int64_t rows_per_epoch = 0;  // proves on restore that set and options are the same
    int64_t steps_per_epoch = 0;
  };
  State state() const;
  /// throws   ValueError if the state belongs to another seed, set or batch size
  void restore(const State& state);

 private:
  void start_epoch(int64_t epoch);

  const ExampleSet& set_;
  BatchOptions options_;
  uint64_t seed_;
  int64_t rows_per_epoch_ = 0;
  int64_t steps_per_epoch_ = 0;
  int64_t epoch_ = 0;
  int64_t step_ = 0;
  std::vector<int32_t> row_examples_;  // example numbers, row after row
  std::vector<int32_t> row_starts_;    // [rows_per_epoch + 1]
};

void to_json(nlohmann::json& j, const Batches::State& state);
void from_json(const nlohmann::json& j, Batches::State& state);

/// Some examples as one batch: a segment each.
TokenBatch make_batch(const std::vector<const Example*>& examples);

/// All examples in order, for an evaluation: at most `batch_size` examples in each.
std::vector<TokenBatch> evaluation_batches(const ExampleSet& set, int64_t batch_size);

}  // namespace qlora::data
