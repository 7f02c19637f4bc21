#include "data/batches.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"
#include "data/packing.h"

namespace qlora::data {

int64_t StepBatch::target_tokens() const {
  int64_t sum = 0;
  for (const TokenBatch& micro : micro_batches) sum += micro.target_tokens();
  return sum;
}

int64_t StepBatch::tokens() const {
  int64_t sum = 0;
  for (const TokenBatch& micro : micro_batches) sum += static_cast<int64_t>(micro.tokens.size());
  return sum;
}

Batches::Batches(const ExampleSet& set, const BatchOptions& options, uint64_t seed)
    : set_(set), options_(options), seed_(seed) {
  QLORA_CHECK(options.per_device_train_batch_size >= 1 && options.gradient_accumulation_steps >= 1,
              ConfigError,
              "[data] per_device_train_batch_size is {} and gradient_accumulation_steps is {}, "
              "allowed at least 1",
              options.per_device_train_batch_size, options.gradient_accumulation_steps);
  QLORA_CHECK(set.size() > 0 && set.size() <= std::numeric_limits<int32_t>::max(), ValueError,
              "[data] {} has {} examples, allowed 1 to {}", set.name, set.size(),
              std::numeric_limits<int32_t>::max());
  for (int64_t i = 0; i < set.size(); ++i) {
    const Example& example = set.examples[i];
    QLORA_CHECK(example.target_tokens() > 0, ValueError,
                "[data] example {} of {} has no target token, so that a batch of it would have no "
                "loss",
                i, set.name);
    QLORA_CHECK(!options.packing || static_cast<int64_t>(example.tokens.size()) <= set.max_length,
                ValueError, "[data] example {} of {} has {} tokens, allowed at most max_length {}",
                i, set.name, example.tokens.size(), set.max_length);
  }
  start_epoch(0);
}

/// Lays out the rows of an epoch. Their count is the same in every epoch.
void Batches::start_epoch(int64_t epoch) {
  std::vector<int32_t> order(set_.examples.size());
  std::iota(order.begin(), order.end(), 0);
  Rng random(seed_, static_cast<uint64_t>(epoch));
  if (options_.shuffle) random.shuffle(order);

  row_examples_.clear();
  row_starts_.assign(1, 0);
  const auto end_row = [&] { row_starts_.push_back(static_cast<int32_t>(row_examples_.size())); };
  if (options_.packing) {
    std::vector<int64_t> lengths;
    for (const Example& e : set_.examples) lengths.push_back(static_cast<int64_t>(e.tokens.size()));
    auto bins = pack_first_fit_decreasing(lengths, order, set_.max_length);
    if (options_.shuffle) random.shuffle(bins);
    for (const auto& bin : bins) {
      row_examples_.insert(row_examples_.end(), bin.begin(), bin.end());
      end_row();
    }
  } else {
    for (const int32_t i : order) {
      row_examples_.push_back(i);
      end_row();
    }
  }
  epoch_ = epoch;
  step_ = 0;
  rows_per_epoch_ = static_cast<int64_t>(row_starts_.size()) - 1;
  const int64_t rows_per_step =
      options_.per_device_train_batch_size * options_.gradient_accumulation_steps;
  steps_per_epoch_ = (rows_per_epoch_ + rows_per_step - 1) / rows_per_step;
}

StepBatch Batches::next() {
  const int64_t batch = options_.per_device_train_batch_size;
  const int64_t rows_per_step = batch * options_.gradient_accumulation_steps;
  const int64_t begin = step_ * rows_per_step;
  const int64_t end = std::min(begin + rows_per_step, rows_per_epoch_);
  StepBatch step;
  step.epoch = epoch_;
  for (int64_t row = begin; row < end; row += batch) {
    std::vector<const Example*> examples;
    for (int32_t i = row_starts_[row]; i < row_starts_[std::min(row + batch, end)]; ++i) {
      examples.push_back(&set_.examples[row_examples_[i]]);
    }
    step.micro_batches.push_back(make_batch(examples));
  }
  if (++step_ == steps_per_epoch_) start_epoch(epoch_ + 1);
  return step;
}

double Batches::epochs_done() const {
  return static_cast<double>(epoch_) +
         static_cast<double>(step_) / static_cast<double>(steps_per_epoch_);
}

Batches::State Batches::state() const {
  return {epoch_, step_, seed_, rows_per_epoch_, steps_per_epoch_};
}

void Batches::restore(const State& state) {
  QLORA_CHECK(
      state.seed == seed_ && state.rows_per_epoch == rows_per_epoch_ &&
          state.steps_per_epoch == steps_per_epoch_,
      ValueError,
      "[data] the checkpoint's data cursor has seed {}, {} rows and {} steps per epoch; this "
      "run has seed {}, {} and {}. Resume with the same data, seed, batch size and packing",
      state.seed, state.rows_per_epoch, state.steps_per_epoch, seed_, rows_per_epoch_,
      steps_per_epoch_);
  QLORA_CHECK(state.epoch >= 0 && state.step >= 0 && state.step < steps_per_epoch_, ValueError,
              "[data] the checkpoint's data cursor is at epoch {}, step {}, allowed 0 to {}",
              state.epoch, state.step, steps_per_epoch_ - 1);
  start_epoch(state.epoch);
  step_ = state.step;
}

void to_json(nlohmann::json& j, const Batches::State& state) {
  j = {{"epoch", state.epoch},
       {"step", state.step},
       {"seed", state.seed},
       {"rows_per_epoch", state.rows_per_epoch},
       {"steps_per_epoch", state.steps_per_epoch}};
}

void from_json(const nlohmann::json& j, Batches::State& state) {
  j.at("epoch").get_to(state.epoch);
  j.at("step").get_to(state.step);
  j.at("seed").get_to(state.seed);
  j.at("rows_per_epoch").get_to(state.rows_per_epoch);
  j.at("steps_per_epoch").get_to(state.steps_per_epoch);
}

TokenBatch make_batch(const std::vector<const Example*>& examples) {
  size_t total = 0;
  for (const Example* example : examples) total += example->tokens.size();
  QLORA_CHECK(total <= static_cast<size_t>(std::numeric_limits<int32_t>::max()), ValueError,
              "[data] a batch has {} tokens, allowed at most {}; lower the batch size", total,
              std::numeric_limits<int32_t>::max());
  TokenBatch batch;
  batch.tokens.reserve(total);
  batch.targets.reserve(total);
  batch.segment_starts.push_back(0);
  for (const Example* example : examples) {
    const size_t length = example->tokens.size();
    batch.tokens.insert(batch.tokens.end(), example->tokens.begin(), example->tokens.end());
    for (size_t t = 1; t <= length; ++t) {
      const bool is_target = t < length && example->learn[t];
      batch.targets.push_back(is_target ? example->tokens[t] : kIgnoreTarget);
    }
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
  return batch;
}

std::vector<TokenBatch> evaluation_batches(const ExampleSet& set, int64_t batch_size) {
  QLORA_CHECK(batch_size >= 1, ConfigError,
              "[data] the evaluation batch size is {}, allowed at least 1", batch_size);
  std::vector<TokenBatch> batches;
  for (int64_t begin = 0; begin < set.size(); begin += batch_size) {
    std::vector<const Example*> examples;
    for (int64_t i = begin; i < std::min(begin + batch_size, set.size()); ++i) {
      examples.push_back(&set.examples[i]);
    }
    batches.push_back(make_batch(examples));
  }
  return batches;
}

}  // namespace qlora::data
