#include "trainer/train.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>
#include <string>

#include "core/error.h"
#include "data/batches.h"
#include "eval/perplexity.h"
#include "tests/support/errors.h"
#include "tests/trainer/tiny_run.h"
#include "trainer/run_directory.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;
using testing::EventLog;
using testing::read_text;
using testing::TinyRun;

TEST(TotalSteps, AreCountedWithoutOverflow) {
  TrainOptions options;
  options.num_train_epochs = 2.5;
  EXPECT_EQ(total_steps(options, 3), 8);
  options.num_train_epochs = kMaxEpochs;
  EXPECT_EQ(total_steps(options, 1'000'000'000), 1'000'000'000'000'000);
  EXPECT_ERROR(ConfigError, total_steps(options, 1'000'000'001), "num_train_epochs is 1000000");
  for (const double epochs : {1e18, 1e300, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    options.num_train_epochs = epochs;
    EXPECT_ERROR(ConfigError, total_steps(options, 100), "allowed: up to 1e+15") << epochs;
  }
  options.max_steps = 7;
  EXPECT_EQ(total_steps(options, 100), 7);
}

TEST(Train, LossFallsAndTheFinalFilesAreThere) {
  TinyRun run;
  run.options.max_steps = 30;
  run.facts.tokenizer_source = run.folder / "model";
  run.facts.config = {{"learning_rate", 2e-3}};
  run.facts.data_name = "tiny";
  run.options.evaluate = {.strategy = Strategy::kSteps, .steps = 10, .on_start = true};
  EventLog log;
  model::Decoder model = run.make_model();
  const TrainResult result =
      train(model, run.train_set, &run.eval_set, run.options, run.facts, log);
  EXPECT_EQ(result.steps, 30);
  EXPECT_FALSE(result.interrupted);
  EXPECT_LT(result.last_loss, 0.7 * result.first_loss);
  EXPECT_EQ(result.first_evaluation->step, 0);
  EXPECT_EQ(result.last_evaluation->step, 30);
  EXPECT_LT(result.last_evaluation->loss, result.first_evaluation->loss);
  EXPECT_EQ(log.of("evaluation").size(), 4u);
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json",
                           "README.md", "loss.svg", "log.jsonl", "config.resolved.json", "runs"}) {
    EXPECT_TRUE(fs::exists(run.run_dir() / name)) << name;
  }
  EXPECT_NE(read_text(run.run_dir() / "README.md").find("| last (step 30) |"), std::string::npos);
  EXPECT_NE(read_text(run.run_dir() / "loss.svg").find("<polyline class=\"eval\""),
            std::string::npos);

  // The file holds the adapter that was measured, rounded to FP16.
  model::Decoder loaded = testing::load_fp32(run.folder / "model");
  loaded.load_adapter(run.run_dir().string(), run.facts.lora.adapter_dtype);
  const auto batches = data::evaluation_batches(run.eval_set, 4);
  EXPECT_NEAR(eval::perplexity(loaded, batches, log).nll, result.last_evaluation->loss, 1e-5);
}

TEST(Train, EveryStepIsLoggedWithItsNumbers) {
  TinyRun run;
  run.options.max_steps = 4;
  EventLog log;
  const TrainResult result = run.run(log);
  const auto steps = log.of("step");
  ASSERT_EQ(steps.size(), 4u);
  int64_t tokens = 0, target_tokens = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    for (const char* key : {"step", "epoch", "loss", "learning_rate", "grad_norm", "tokens",
                            "target_tokens", "seconds", "cpu_seconds", "tokens_per_second",
                            "tokens_per_cpu_second", "rss_bytes", "loss_scale", "applied"}) {
      EXPECT_TRUE(steps[i].contains(key)) << key;
    }
    EXPECT_EQ(steps[i].at("step"), i + 1);
    EXPECT_EQ(steps[i].contains("seconds_to_first_step"), i == 0);
    tokens += steps[i].at("tokens").get<int64_t>();
    target_tokens += steps[i].at("target_tokens").get<int64_t>();
  }
  // 13 examples, 4 a step: the fourth step takes the last one, all of the epoch's tokens are seen.
  EXPECT_EQ(tokens, run.train_set.tokens());
  EXPECT_EQ(target_tokens, run.train_set.target_tokens());
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_EQ(steps[3].at("epoch"), 1.0);
  EXPECT_GT(*result.seconds_to_first_step, steps[0].at("seconds").get<double>());
  // logging_steps 2: each step is told once, and the line that lives is gone where one is printed.
  ASSERT_EQ(log.notices.size(), 2u);
  EXPECT_SAYS(log.notices[0], "step 2/4");
  ASSERT_EQ(log.lives.size(), 5u);
  EXPECT_SAYS(log.lives[0], "step 1/4");
  EXPECT_EQ(log.lives[1], "");
  EXPECT_SAYS(log.lives[2], "step 3/4");
  EXPECT_EQ(log.lives[3], "");
  EXPECT_EQ(log.lives[4], "");  // at the end

  std::istringstream lines(read_text(run.run_dir() / "log.jsonl"));
  int logged = 0;
  for (std::string line; std::getline(lines, line);) {
    logged += nlohmann::json::parse(line).at("kind") == "step";
  }
  EXPECT_EQ(logged, 4);
}

// Logits are sums of at most 128 products; two orders of summation move one by at most
// 2·128·2^-24 of its size (below 4 here), a token's loss by twice that: 1.3e-4. Epsilon is large,
// so that the updates do not turn rounding into signs.
TEST(Train, AccumulationDoesNotChangeTheLoss) {
  TinyRun run;
  run.options.optimizer.epsilon = 1e-2;
  run.options.max_steps = 5;
  run.options.batching = {.per_device_train_batch_size = 8,
                          .gradient_accumulation_steps = 1,
                          .packing = false,
                          .shuffle = true};
  EventLog at_once;
  run.run(at_once);
  run.use_run_dir("accumulated");
  run.options.batching.per_device_train_batch_size = 1;
  run.options.batching.gradient_accumulation_steps = 8;
  EventLog accumulated;
  run.run(accumulated);
  ASSERT_EQ(at_once.losses().size(), 5u);
  for (const auto& [step, loss] : at_once.losses()) {
    EXPECT_NEAR(accumulated.losses().at(step), loss, 1.3e-4) << step;
  }
  const double norm = at_once.of("step")[0].at("grad_norm");
  EXPECT_NEAR(accumulated.of("step")[0].at("grad_norm").get<double>(), norm, 1e-4 * norm);
}

TEST(Train, ADynamicScaleThatOverflowsIsLoweredUntilItFits) {
  TinyRun run;
  run.options.max_steps = 4;
  run.options.loss_scaling = {
      .kind = LossScalingKind::kDynamic, .initial_scale = 1e40, .backoff_factor = 0.001};
  EventLog log;
  const TrainResult result = run.run(log);
  EXPECT_EQ(result.skipped_steps, 1);
  const auto steps = log.of("step");
  EXPECT_FALSE(steps[0].at("applied").get<bool>());
  EXPECT_NEAR(steps[1].at("loss_scale").get<double>(), 1e37, 1e32);
  EXPECT_TRUE(steps[1].at("applied").get<bool>());
}

TEST(Train, TheBestAdapterIsLoadedAndNeverDeleted) {
  TinyRun run;
  run.options.max_steps = 12;
  run.options.batching.shuffle = false;
  // Six steps teach the evaluation's own texts, six their contrary: other tokens after the same.
  run.train_set.examples.clear();
  for (int64_t i = 0; i < 48; ++i) {
    data::Example example = run.eval_set.examples[static_cast<size_t>(i % run.eval_set.size())];
    for (size_t t = 1; i >= 24 && t < example.tokens.size(); t += 2) {
      example.tokens[t] = (example.tokens[t] + 77) % 256;
    }
    run.train_set.examples.push_back(std::move(example));
  }
  run.options.optimizer.learning_rate = 1e-2;
  run.options.schedule.kind = ScheduleKind::kConstant;
  run.options.evaluate = {.strategy = Strategy::kSteps, .steps = 2, .on_start = true};
  run.options.save = {
      .strategy = Strategy::kSteps, .steps = 4, .total_limit = 1, .load_best_model_at_end = true};
  EventLog log;
  const TrainResult result = run.run(log, true);
  ASSERT_TRUE(result.loaded_step);
  double least = INFINITY;
  int64_t best = -1;
  for (const auto& evaluation : log.of("evaluation")) {
    const double loss = evaluation.at("loss");
    if (loss < least) {
      least = loss;
      best = evaluation.at("step");
    }
  }
  ASSERT_TRUE(best > 0 && best < 12) << best << ": the test tests nothing";
  EXPECT_EQ(*result.loaded_step, best);
  EXPECT_EQ(result.best_evaluation->loss, least);
  EXPECT_EQ(read_text(run.run_dir() / "adapter_model.safetensors"),
            read_text(checkpoint_path(run.run_dir(), best) / "adapter_model.safetensors"));
  std::vector<int64_t> kept;
  for (const auto& checkpoint : list_checkpoints(run.run_dir())) kept.push_back(checkpoint.step);
  EXPECT_EQ(kept, (std::vector<int64_t>{best, 12}));
}

TEST(Train, EpochsDecideWhenToEvaluateAndSave) {
  TinyRun run;
  run.options.max_steps = -1;
  run.options.num_train_epochs = 2.5;  // of 4 steps
  run.options.evaluate.strategy = Strategy::kEpoch;
  run.options.save.strategy = Strategy::kEpoch;
  EventLog log;
  EXPECT_EQ(run.run(log, true).steps, 10);
  std::vector<int64_t> evaluated, saved;
  for (const auto& record : log.of("evaluation")) evaluated.push_back(record.at("step"));
  for (const auto& record : log.of("checkpoint")) saved.push_back(record.at("step"));
  EXPECT_EQ(evaluated, (std::vector<int64_t>{4, 8, 10}));
  EXPECT_EQ(saved, (std::vector<int64_t>{4, 8, 10}));
}

TEST(Train, OffloadingChangesNothingOnTheCpuAndSaysSo) {
  TinyRun run;
  run.options.max_steps = 2;
  run.options.gradient_checkpointing = true;
  EventLog stays, leaves;
  run.run(stays);
  run.options.activation_offloading = true;
  run.use_run_dir("again");
  run.run(leaves);
  EXPECT_EQ(leaves.losses(), stays.losses());
  const auto says = [](const EventLog& log) {
    return std::ranges::any_of(log.notices, [](const std::string& notice) {
      return notice.find("activation_offloading changes nothing") != std::string::npos;
    });
  };
  EXPECT_TRUE(says(leaves));
  EXPECT_FALSE(says(stays));
}

TEST(Train, RefusesWhatDoesNotFit) {
  TinyRun run;
  EventLog log;
  run.options.evaluate.on_start = true;
  EXPECT_ERROR(ConfigError, run.run(log), "there is no evaluation set");
  EXPECT_FALSE(fs::exists(run.run_dir()));
  run.options.evaluate = {};
  run.options.save.load_best_model_at_end = true;
  EXPECT_ERROR(ConfigError, run.run(log, true), "eval_strategy is no");
  run.options.save = {};
  run.options.activation_offloading = true;
  EXPECT_ERROR(ConfigError, run.run(log), "gradient_checkpointing is false");
  run.options.activation_offloading = false;
  model::Decoder bare = testing::load_fp32(run.folder / "model");
  EXPECT_THROW(train(bare, run.train_set, nullptr, run.options, run.facts, log), ConfigError);
  fs::create_directories(run.run_dir());
  testing::write_text(run.run_dir() / "notes.txt", "x");
  EXPECT_ERROR(ConfigError, run.run(log), "exists");
}

}  // namespace
}  // namespace qlora::trainer
