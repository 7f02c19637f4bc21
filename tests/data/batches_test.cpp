#include "data/batches.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

/// Examples whose tokens name the example: example e holds 1000 e, 1000 e + 1, …
ExampleSet numbered(const std::vector<size_t>& lengths, int64_t max_length) {
  ExampleSet set{.name = "n", .max_length = max_length, .examples = {}, .counts = {}};
  for (size_t e = 0; e < lengths.size(); ++e) {
    Example example;
    for (size_t t = 0; t < lengths[e]; ++t) {
      example.tokens.push_back(static_cast<int32_t>(1000 * e + t));
      example.learn.push_back(t % 3 != 1 || t == lengths[e] - 1);
    }
    set.examples.push_back(example);
  }
  return set;
}

ExampleSet random_set(uint64_t seed, size_t count) {
  std::mt19937_64 random(seed);
  std::vector<size_t> lengths(count);
  for (size_t& length : lengths) length = 2 + random() % 30;
  return numbered(lengths, 32);
}

/// Every segment has to be one whole example with its targets; gives the examples' numbers.
std::vector<int32_t> check_segments(const StepBatch& step, const ExampleSet& set) {
  std::vector<int32_t> seen;
  for (const TokenBatch& batch : step.micro_batches) {
    EXPECT_EQ(batch.tokens.size(), batch.targets.size());
    EXPECT_EQ(batch.segment_starts.front(), 0);
    EXPECT_EQ(batch.segment_starts.back(), static_cast<int32_t>(batch.tokens.size()));
    for (size_t s = 0; s + 1 < batch.segment_starts.size(); ++s) {
      const int32_t begin = batch.segment_starts[s], end = batch.segment_starts[s + 1];
      const int32_t e = batch.tokens[begin] / 1000;
      const Example& example = set.examples[e];
      EXPECT_EQ(std::vector<int32_t>(batch.tokens.begin() + begin, batch.tokens.begin() + end),
                example.tokens);
      for (int32_t t = begin; t < end; ++t) {
        const bool is_last = t + 1 == end;
        const int32_t target =
            !is_last && example.learn[t + 1 - begin] ? batch.tokens[t + 1] : kIgnoreTarget;
        EXPECT_EQ(batch.targets[t], target);
      }
      seen.push_back(e);
    }
  }
  return seen;
}

TEST(Batches, EveryExampleOnceAnEpoch) {
  for (const bool packing : {false, true}) {
    for (const bool shuffle : {false, true}) {
      for (const int64_t batch : {1, 3}) {
        const ExampleSet set = random_set(1, 47);
        Batches batches(set,
                        {.per_device_train_batch_size = batch,
                         .gradient_accumulation_steps = 4,
                         .packing = packing,
                         .shuffle = shuffle},
                        9);
        for (int64_t epoch = 0; epoch < 3; ++epoch) {
          std::vector<int32_t> seen;
          int64_t targets = 0;
          for (int64_t s = 0; s < batches.steps_per_epoch(); ++s) {
            const StepBatch step = batches.next();
            EXPECT_EQ(step.epoch, epoch);
            EXPECT_GT(step.target_tokens(), 0);
            EXPECT_LE(step.micro_batches.size(), 4u);
            targets += step.target_tokens();
            for (const int32_t e : check_segments(step, set)) seen.push_back(e);
          }
          std::sort(seen.begin(), seen.end());
          ASSERT_EQ(seen.size(), 47u);
          for (int32_t e = 0; e < 47; ++e) ASSERT_EQ(seen[e], e);
          EXPECT_EQ(targets, set.target_tokens());
        }
      }
    }
  }
}

TEST(Batches, TheTailIsAStepOfItsOwn) {
  const ExampleSet set = numbered(std::vector<size_t>(11, 4), 8);
  Batches batches(
      set, {.per_device_train_batch_size = 2, .gradient_accumulation_steps = 2, .shuffle = false},
      1);
  EXPECT_EQ(batches.rows_per_epoch(), 11);
  EXPECT_EQ(batches.steps_per_epoch(), 3);
  std::vector<std::vector<size_t>> segments;
  for (int s = 0; s < 3; ++s) {
    segments.emplace_back();
    const StepBatch step = batches.next();
    for (const auto& micro : step.micro_batches)
      segments.back().push_back(micro.segment_starts.size() - 1);
    EXPECT_EQ(step.tokens(), s < 2 ? 16 : 12);
  }
  EXPECT_EQ(segments, (std::vector<std::vector<size_t>>{{2, 2}, {2, 2}, {2, 1}}));
}

TEST(Batches, UnshuffledStepsTakeRowsInOrder) {
  const ExampleSet set = numbered(std::vector<size_t>(12, 4), 4);
  Batches batches(
      set, {.per_device_train_batch_size = 2, .gradient_accumulation_steps = 2, .shuffle = false},
      1);
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (int32_t s = 0; s < 3; ++s) {
      EXPECT_EQ(check_segments(batches.next(), set),
                (std::vector<int32_t>{4 * s, 4 * s + 1, 4 * s + 2, 4 * s + 3}));
    }
  }
}

std::vector<std::vector<int32_t>> tokens_of(Batches& batches, int64_t steps) {
  std::vector<std::vector<int32_t>> out;
  for (int64_t s = 0; s < steps; ++s) {
    for (const auto& micro : batches.next().micro_batches) out.push_back(micro.tokens);
  }
  return out;
}

TEST(Batches, TheOrderFollowsFromSeedAndEpoch) {
  const ExampleSet set = random_set(2, 40);
  for (const bool packing : {false, true}) {
    const BatchOptions options{
        .per_device_train_batch_size = 2, .gradient_accumulation_steps = 2, .packing = packing};
    Batches a(set, options, 3), b(set, options, 3), c(set, options, 4);
    const auto first = tokens_of(a, a.steps_per_epoch());
    EXPECT_EQ(first, tokens_of(b, b.steps_per_epoch()));
    EXPECT_NE(first, tokens_of(c, c.steps_per_epoch()));
    EXPECT_NE(first, tokens_of(a, a.steps_per_epoch()));  // another order in the second epoch
  }
}

TEST(Batches, AStoredCursorGoesOnExactly) {
  const ExampleSet set = random_set(3, 29);
  for (const bool packing : {false, true}) {
    const BatchOptions options{
        .per_device_train_batch_size = 2, .gradient_accumulation_steps = 3, .packing = packing};
    Batches whole(set, options, 5);
    const int64_t steps = 3 * whole.steps_per_epoch();
    std::vector<nlohmann::json> cursors;
    std::vector<std::vector<std::vector<int32_t>>> taken;
    for (int64_t s = 0; s < steps; ++s) {
      cursors.emplace_back(whole.state());
      taken.push_back(tokens_of(whole, 1));
    }
    for (int64_t from = 0; from < steps; ++from) {
      Batches again(set, options, 5);
      again.restore(nlohmann::json::parse(cursors[from].dump()).get<Batches::State>());
      EXPECT_DOUBLE_EQ(again.epochs_done(),
                       static_cast<double>(from) / static_cast<double>(whole.steps_per_epoch()));
      for (int64_t s = from; s < steps; ++s) ASSERT_EQ(tokens_of(again, 1), taken[s]);
    }
  }
}

TEST(Batches, RefusesACursorOfAnotherRun) {
  const ExampleSet set = random_set(3, 29), other = random_set(3, 30);
  const BatchOptions options{.per_device_train_batch_size = 2};
  Batches batches(set, options, 5);
  const Batches::State good = batches.state();
  EXPECT_ERROR(ValueError, Batches(set, options, 6).restore(good),
               "has seed 5, 29 rows and 15 steps");
  EXPECT_ERROR(ValueError, Batches(other, options, 5).restore(good), "Resume with the same data");
  EXPECT_ERROR(ValueError, Batches(set, {.per_device_train_batch_size = 3}, 5).restore(good),
               "batch size");
  for (const auto& [epoch, step] : {std::pair{-1, 0}, {0, -1}, {0, 15}}) {
    Batches::State bad = good;
    bad.epoch = epoch;
    bad.step = step;
    EXPECT_ERROR(ValueError, batches.restore(bad), "allowed 0 to 14");
  }
}

TEST(Batches, PackedRowsAreFullAndNeverTooLong) {
  const ExampleSet set = random_set(4, 200);
  Batches batches(set, {.per_device_train_batch_size = 1, .packing = true}, 5);
  int64_t rows = 0;
  for (int64_t s = 0; s < batches.steps_per_epoch(); ++s, ++rows) {
    const StepBatch step = batches.next();
    ASSERT_LE(step.tokens(), set.max_length);
    check_segments(step, set);
  }
  EXPECT_EQ(rows, batches.rows_per_epoch());
  EXPECT_LE(static_cast<double>(rows * set.max_length), 1.1 * static_cast<double>(set.tokens()));
}

TEST(Batches, RefusesSetsThatCannotBeTrainedOn) {
  const ExampleSet empty{.name = "none", .max_length = 8, .examples = {}, .counts = {}};
  EXPECT_ERROR(ValueError, Batches(empty, {}, 1), "none has 0 examples");
  ExampleSet silent = numbered({4, 4}, 8);
  silent.examples[1].learn = {1, 0, 0, 0};  // the first token is no target
  EXPECT_ERROR(ValueError, Batches(silent, {}, 1), "example 1 of n has no target token");
  const ExampleSet lengthy = numbered({4, 9}, 8);
  EXPECT_ERROR(ValueError, Batches(lengthy, {.packing = true}, 1),
               "example 1 of n has 9 tokens, allowed at most max_length 8");
  const ExampleSet good = numbered({4}, 8);
  EXPECT_ERROR(ConfigError, Batches(good, {.per_device_train_batch_size = 0}, 1),
               "allowed at least 1");
  EXPECT_ERROR(ConfigError, Batches(good, {.gradient_accumulation_steps = 0}, 1),
               "allowed at least 1");
}

TEST(MakeBatch, RefusesMoreTokensThanAnIndexHolds) {
  Example lengthy;
  lengthy.tokens.resize(size_t{1} << 24);
  EXPECT_ERROR(ValueError, make_batch(std::vector<const Example*>(128, &lengthy)),
               "lower the batch size");
}

TEST(EvaluationBatches, AllExamplesInOrder) {
  const ExampleSet set = numbered({4, 5, 6, 7, 8}, 8);
  const auto batches = evaluation_batches(set, 2);
  ASSERT_EQ(batches.size(), 3u);
  EXPECT_EQ(batches[0].segment_starts, (std::vector<int32_t>{0, 4, 9}));
  EXPECT_EQ(batches[2].segment_starts, (std::vector<int32_t>{0, 8}));
  int64_t targets = 0;
  for (const auto& batch : batches) targets += batch.target_tokens();
  EXPECT_EQ(targets, set.target_tokens());
  EXPECT_ERROR(ConfigError, evaluation_batches(set, 0), "allowed at least 1");
}

}  // namespace
}  // namespace qlora::data
