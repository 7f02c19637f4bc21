#include "trainer/train.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <string>

#include "core/error.h"
#include "core/signals.h"
#include "data/batches.h"
#include "eval/perplexity.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "tests/trainer/tiny_run.h"
#include "trainer/run_directory.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;
using testing::EventLog;
using testing::read_text;
using testing::TinyRun;

/// Everything at once that a resumed run has to restore: two epochs, accumulation, dropout, noise,
/// recomputation, a falling rate.
void use_everything(TinyRun& run) {
  run.facts.lora.lora_dropout = 0.1;
  run.options.neftune_noise_alpha = 5;
  run.options.gradient_checkpointing = true;
  run.options.schedule = {.kind = ScheduleKind::kCosine, .warmup_steps = 2};
  run.options.optimizer.weight_decay = 0.01;
  run.options.loss_scaling = {.kind = LossScalingKind::kDynamic, .growth_interval_steps = 4};
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
  EXPECT_EQ(log.notices.size(), 2u);  // logging_steps 2
  EXPECT_EQ(log.lives.size(), 4u);

  std::istringstream lines(read_text(run.run_dir() / "log.jsonl"));
  int logged = 0;
  for (std::string line; std::getline(lines, line);) {
    logged += nlohmann::json::parse(line).at("kind") == "step";
  }
  EXPECT_EQ(logged, 4);
}

class TrainResume : public ::testing::TestWithParam<OptimizerKind> {};

TEST_P(TrainResume, GoesOnBitForBit) {
  TinyRun run;
  use_everything(run);
  run.options.optimizer.kind = GetParam();
  run.options.save = {.strategy = Strategy::kSteps, .steps = 5};
  EventLog whole;
  run.run(whole);
  ASSERT_EQ(whole.losses().size(), 10u);

  const fs::path first_run = run.run_dir();
  run.use_run_dir("resumed");
  run.options.resume = (first_run / "checkpoint-5").string();
  EventLog rest;
  const TrainResult result = run.run(rest);
  EXPECT_TRUE(rest.warnings.empty()) << rest.warnings.front();
  const auto losses = rest.losses();
  ASSERT_EQ(losses.size(), 5u);
  for (const auto& [step, loss] : losses) EXPECT_EQ(loss, whole.losses().at(step)) << step;
  EXPECT_EQ(result.steps, 10);
  EXPECT_EQ(read_text(first_run / "adapter_model.safetensors"),
            read_text(run.run_dir() / "adapter_model.safetensors"));
  EXPECT_EQ(read_text(first_run / "checkpoint-10" / "optimizer.safetensors"),
            read_text(run.run_dir() / "checkpoint-10" / "optimizer.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Kinds, TrainResume,
                         ::testing::Values(OptimizerKind::kPagedAdamW8bit,
                                           OptimizerKind::kAdamW32bit));

TEST(Train, ASignalEndsTheStepAndSavesAndTheRunGoesOn) {
  TinyRun run;
  use_everything(run);
  EventLog whole;
  run.run(whole);

  run.use_run_dir("stopped");
  EventLog log;
  log.on_event = [](const std::string& kind, const nlohmann::json& record) {
    if (kind == "step" && record.at("step") == 3) std::raise(SIGTERM);
  };
  {
    const StopSignals signals;
    const TrainResult result = run.run(log);
    EXPECT_TRUE(result.interrupted);
    EXPECT_EQ(result.steps, 3);
    EXPECT_EQ(stop_exit_code(), 143);
  }
  EXPECT_EQ(log.of("interrupted").size(), 1u);
  EXPECT_FALSE(io::manifest_problem(run.run_dir() / "checkpoint-3"));
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));

  log.on_event = nullptr;
  run.options.resume = "auto";
  EventLog rest;
  {
    const StopSignals signals;  // forgets the signal, as a new process would
    EXPECT_FALSE(run.run(rest).interrupted);
  }
  ASSERT_EQ(rest.losses().size(), 7u);
  for (const auto& [step, loss] : rest.losses()) EXPECT_EQ(loss, whole.losses().at(step)) << step;

  // A finished run that is resumed writes its final files again and trains no step.
  fs::remove(run.run_dir() / "adapter_model.safetensors");
  run.options.max_steps = 3;
  EventLog again;
  EXPECT_EQ(run.run(again).steps, 3);
  EXPECT_TRUE(again.of("step").empty());
  EXPECT_TRUE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
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

/// The parity fixture's untied model with a token whose embedding is NaN.
constexpr int32_t kPoison = 255;
void write_poisoned_model(const fs::path& folder) {
  const fs::path source = fs::path(QLORA_SOURCE_DIR) / "tests/fixtures/parity/models/plain";
  fs::create_directories(folder);
  fs::copy_file(source / "config.json", folder / "config.json");
  const io::SafetensorsReader reader(source / "model.safetensors");
  std::vector<io::TensorView> tensors = reader.tensors();
  std::vector<std::byte> embedding;
  for (io::TensorView& tensor : tensors) {
    if (tensor.name != "model.embed_tokens.weight") continue;
    embedding.assign(tensor.bytes.begin(), tensor.bytes.end());
    const size_t row = embedding.size() / static_cast<size_t>(tensor.shape[0]);
    std::fill(embedding.begin() + static_cast<int64_t>(kPoison * row),
              embedding.begin() + static_cast<int64_t>((kPoison + 1) * row), std::byte{0xFF});
    tensor.bytes = embedding;
  }
  ASSERT_FALSE(embedding.empty());
  io::write_safetensors(folder / "model.safetensors", tensors);
}

class PoisonedTrain : public ::testing::Test {
 protected:
  PoisonedTrain() {
    fs::remove_all(run.folder / "model");
    write_poisoned_model(run.folder / "model");
    run.options.batching = {.per_device_train_batch_size = 1,
                            .gradient_accumulation_steps = 1,
                            .packing = false,
                            .shuffle = false};
    run.train_set = testing::tiny_examples(10, 5);
  }
  void poison(int64_t example) { run.train_set.examples[example].tokens[0] = kPoison; }

  TinyRun run;
  EventLog log;
};

TEST_F(PoisonedTrain, ANanBatchIsSkippedAndCounted) {
  poison(2);
  poison(6);
  const TrainResult result = run.run(log);
  EXPECT_EQ(result.skipped_steps, 2);
  const auto steps = log.of("step");
  ASSERT_EQ(steps.size(), 10u);
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].at("applied").get<bool>(), i != 2 && i != 6) << i;
    EXPECT_EQ(std::isfinite(steps[i].at("loss").get<double>()), i != 2 && i != 6) << i;
  }
  EXPECT_EQ(log.warnings.size(), 2u);
}

TEST_F(PoisonedTrain, TooManyInARowStopTheRunAndNothingBadIsSaved) {
  for (const int64_t example : {4, 5, 6, 7}) poison(example);
  run.options.watchdog.max_skipped_steps = 3;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 2};
  EXPECT_THROW(run.run(log), ValueError);
  EXPECT_EQ(log.of("step").size(), 7u);
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  const io::SafetensorsReader saved(run.run_dir() / "checkpoint-6" / "optimizer.safetensors");
  for (const io::TensorView& tensor : saved.tensors()) {
    if (tensor.dtype != io::DType::kF32) continue;
    std::vector<float> values(tensor.element_count());
    io::read_f32(tensor, 0, tensor.element_count(), values.data());
    for (const float value : values) ASSERT_TRUE(std::isfinite(value)) << tensor.name;
  }
}

TEST_F(PoisonedTrain, RollBackReturnsToTheCheckpointAndGoesOnBehindTheTrouble) {
  poison(4);
  poison(5);
  run.options.watchdog = {.max_skipped_steps = 2, .action = WatchdogAction::kRollBack};
  run.options.save = {.strategy = Strategy::kSteps, .steps = 3};
  const TrainResult result = run.run(log);
  EXPECT_EQ(result.steps, 10);
  const auto rollbacks = log.of("rollback");
  ASSERT_EQ(rollbacks.size(), 1u);
  EXPECT_EQ(rollbacks[0].at("step"), 6);
  EXPECT_EQ(rollbacks[0].at("to_step"), 3);

  // From there it is the run that was never at step 4: the same as one that skips these examples.
  EventLog skipping;
  run.use_run_dir("skipping");
  run.options.watchdog = {};
  run.run(skipping);
  // Step 4 (before the poison) was undone, so that the losses differ from step 7 on.
  EXPECT_EQ(log.losses().at(4), skipping.losses().at(4));
  EXPECT_NE(log.losses().at(7), skipping.losses().at(7));
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

/// While it lives, no file may grow beyond `bytes`: what a full disk does to a large file.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);  // write() then fails with EFBIG
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit now = {bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FileLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_ = {};
};

TEST(Train, NoSpaceLeftKeepsTheEarlierCheckpoint) {
  TinyRun run;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 3};
  EventLog whole;
  run.run(whole);
  run.use_run_dir("full");
  EventLog log;
  std::optional<FileLimit> limit;
  log.on_event = [&](const std::string& kind, const nlohmann::json& record) {
    if (kind == "checkpoint" && record.at("step") == 3) limit.emplace(100'000);
  };
  try {
    run.run(log);
    ADD_FAILURE() << "the checkpoint fits";
  } catch (const IoError& error) {
    EXPECT_NE(std::string(error.what()).find(run.run_dir().string()), std::string::npos)
        << error.what();
  }
  limit.reset();
  EXPECT_FALSE(io::manifest_problem(run.run_dir() / "checkpoint-3"));
  for (const auto& entry : fs::directory_iterator(run.run_dir())) {  // nothing half-written
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "checkpoint-3" || name == "log.jsonl" || name == "runs") << name;
  }
  run.options.resume = "auto";
  EventLog rest;
  run.run(rest);
  ASSERT_EQ(rest.losses().size(), 7u);
  for (const auto& [step, loss] : rest.losses()) EXPECT_EQ(loss, whole.losses().at(step)) << step;
}

template <class Kind>
std::string error_of(const TinyRun& run, bool with_eval = false) {
  EventLog log;
  try {
    run.run(log, with_eval);
  } catch (const Kind& error) {
    return error.what();
  }
  return "no error";
}

TEST(Train, RefusesWhatDoesNotFit) {
  TinyRun run;
  run.options.evaluate.on_start = true;
  EXPECT_NE(error_of<ConfigError>(run).find("there is no evaluation set"), std::string::npos);
  EXPECT_FALSE(fs::exists(run.run_dir()));
  run.options.evaluate = {};
  run.options.save.load_best_model_at_end = true;
  EXPECT_NE(error_of<ConfigError>(run, true).find("eval_strategy is no"), std::string::npos);
  run.options.save = {};
  EventLog log;
  model::Decoder bare = testing::load_fp32(run.folder / "model");
  EXPECT_THROW(train(bare, run.train_set, nullptr, run.options, run.facts, log), ConfigError);
  fs::create_directories(run.run_dir());
  testing::write_text(run.run_dir() / "notes.txt", "x");
  EXPECT_NE(error_of<ConfigError>(run).find("exists"), std::string::npos);
}

TEST(Train, ResumeRefusesAnotherRunsCheckpoint) {
  TinyRun run;
  run.options.max_steps = 2;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 2};
  EventLog log;
  run.run(log);
  const fs::path first = run.run_dir() / "checkpoint-2";
  run.options.resume = first.string();
  run.use_run_dir("other");

  run.options.seed = 43;
  EXPECT_NE(error_of<ConfigError>(run).find("seed is 43, the checkpoint was made with 42"),
            std::string::npos);
  run.options.seed = 42;
  run.facts.lora.r = 8;
  EXPECT_NE(error_of<ConfigError>(run).find("lora.r and the model must be those"),
            std::string::npos);
  run.facts.lora.r = 64;
  run.facts.lora.target_modules = {"q_proj"};
  const auto everything = run.facts.lora.target_modules;
  run.facts.lora.target_modules = {"all-linear"};
  run.train_set.examples[0].tokens[3] += 1;
  EXPECT_NE(error_of<ConfigError>(run).find("the training set is not that of"), std::string::npos);
  run.train_set.examples[0].tokens[3] -= 1;
  testing::write_text(first / "trainer_state.json", "{}");
  EXPECT_NE(error_of<FormatError>(run).find("trainer_state.json"), std::string::npos);
}

}  // namespace
}  // namespace qlora::trainer
