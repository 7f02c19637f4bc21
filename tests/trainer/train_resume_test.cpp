// Runs that end early, by a signal or a full disk, and go on from a checkpoint.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/signals.h"
#include "io/atomic_file.h"
#include "tests/support/errors.h"
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
  EXPECT_ERROR(IoError, run.run(log), run.run_dir().string());
  limit.reset();
  EXPECT_FALSE(io::manifest_problem(run.run_dir() / "checkpoint-3"));
  for (const auto& entry : fs::directory_iterator(run.run_dir())) {  // nothing half-written
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(name == "checkpoint-3" || name == "log.jsonl" || name == "runs" ||
                name == "base_model.json")
        << name;
  }
  run.options.resume = "auto";
  EventLog rest;
  run.run(rest);
  ASSERT_EQ(rest.losses().size(), 7u);
  for (const auto& [step, loss] : rest.losses()) EXPECT_EQ(loss, whole.losses().at(step)) << step;
}

/// A run that cannot write the adapter at its end, its last checkpoint or not.
///   returns   the error
std::string fill_disk_at_the_end(const TinyRun& run, const std::string& last_event) {
  EventLog log;
  std::optional<FileLimit> limit;
  log.on_event = [&](const std::string& kind, const nlohmann::json& record) {
    if (kind == last_event && record.at("step") == 10) limit.emplace(100'000);
  };
  return testing::message_of<IoError>([&] { run.run(log); });
}

TEST(Train, NoSpaceLeftAtTheEndIsNoFinishedRunAndCanBeFinished) {
  TinyRun run;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 5};
  EventLog whole;
  run.run(whole);
  const fs::path finished = run.run_dir() / "adapter_model.safetensors";
  run.use_run_dir("full");
  const std::string error = fill_disk_at_the_end(run, "checkpoint");
  EXPECT_SAYS(error, "adapter_model.safetensors");
  EXPECT_SAYS(error, "the checkpoint of step 10 is kept in");
  EXPECT_SAYS(error, "--resume auto writes the final files");
  EXPECT_TRUE(fs::exists(run.run_dir() / "README.md"));  // all but what says that it is finished
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  run.options.resume = "auto";
  EventLog rest;
  run.run(rest);
  EXPECT_TRUE(rest.of("step").empty());
  EXPECT_EQ(read_text(run.run_dir() / "adapter_model.safetensors"), read_text(finished));
}

TEST(Train, NoSpaceLeftForAnythingIsToldAsThat) {
  TinyRun run;
  EXPECT_SAYS(fill_disk_at_the_end(run, "step"), "what was trained is lost");
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  EventLog again;
  run.run(again);  // nothing is left that could be lost
  EXPECT_TRUE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
}

TEST(Train, FinalFilesThatCannotBeMadeLeaveACheckpoint) {
  TinyRun run;  // saves none by itself
  run.options.max_steps = 2;
  run.facts.tokenizer_source = run.folder / "gone";
  EventLog log;
  EXPECT_ERROR(IoError, run.run(log), "the checkpoint of step 2 is kept in");
  EXPECT_FALSE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  run.options.resume = "auto";
  run.facts.tokenizer_source = run.folder.put("tokenizer.txt", "of no known kind");
  EventLog damaged;
  EXPECT_THROW(run.run(damaged), FormatError);
  EXPECT_SAYS(damaged.warnings.back(), "the final files are not written");
  run.facts.tokenizer_source = run.folder / "model";
  EventLog rest;
  run.run(rest);
  EXPECT_TRUE(rest.of("step").empty());
  EXPECT_TRUE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
}

TEST(Train, ResumeRefusesOtherWeightsOfTheSameSize) {
  TinyRun run;
  run.options.max_steps = 2;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 1};
  EventLog log;
  run.run(log);
  testing::write_tiny_checkpoint(run.folder / "model", {.seed = 2});
  run.options.resume = (run.run_dir() / "checkpoint-1").string();
  EXPECT_ERROR(ConfigError, run.run(log), "with other weights than");
  EXPECT_TRUE(fs::exists(run.run_dir() / "checkpoint-2"));  // nothing was changed
  fs::remove(run.run_dir() / "base_model.json");            // as an older run left it
  EXPECT_EQ(run.run(log).steps, 2);
  EXPECT_TRUE(fs::exists(run.run_dir() / "base_model.json"));
  EXPECT_EQ(run.run(log).steps, 2);
}

TEST(Train, ABaseThatCannotBeReadAnyMoreCostsNothingThatWasTrained) {
  TinyRun run;
  run.options.max_steps = 2;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 1};
  EventLog log;
  log.on_event = [&](const std::string& kind, const nlohmann::json&) {
    if (kind == "start") fs::remove(run.folder / "model/model.safetensors");
  };
  run.run(log);
  EXPECT_TRUE(fs::exists(run.run_dir() / "checkpoint-1"));
  EXPECT_TRUE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  ASSERT_EQ(log.warnings.size(), 1u);
  EXPECT_SAYS(log.warnings.front(), "[trainer] which base was trained over is not recorded");
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
  EXPECT_ERROR(ConfigError, run.run(log), "seed is 43, the checkpoint was made with 42");
  run.options.seed = 42;
  run.facts.lora.r = 8;
  EXPECT_ERROR(ConfigError, run.run(log), "lora.r is 8, the checkpoint was made with 64");
  run.facts.lora.r = 64;
  run.facts.lora.target_modules = {"q_proj"};
  EXPECT_ERROR(ConfigError, run.run(log), "lora.target_modules is [\"q_proj\"]");
  run.facts.lora.target_modules = {"all-linear"};
  run.options.max_steps = 1;
  EXPECT_ERROR(ConfigError, run.run(log), "checkpoint-2 is of step 2, but the run has 1 steps");
  run.options.max_steps = 2;
  EXPECT_FALSE(fs::exists(run.run_dir()));
  run.train_set.examples[0].tokens[3] += 1;
  EXPECT_ERROR(ConfigError, run.run(log), "the training set is not that of");
  run.train_set.examples[0].tokens[3] -= 1;
  testing::write_text(first / "trainer_state.json", "{}");
  EXPECT_ERROR(FormatError, run.run(log), "trainer_state.json");
}

/// Makes a checkpoint one that was written before its adapters' options were kept.
void forget_sections(const fs::path& checkpoint) {
  io::AtomicDirectory folder(checkpoint, io::IfExists::kReplace);
  for (const auto& entry : fs::directory_iterator(checkpoint)) {
    const fs::path name = entry.path().filename();
    if (name != "manifest.json") fs::copy_file(entry.path(), folder.path() / name);
  }
  auto state = nlohmann::json::parse(read_text(checkpoint / "trainer_state.json"));
  EXPECT_EQ(state.at("options").erase("lora"), 1u);
  EXPECT_EQ(state.at("options").erase("quantization"), 1u);
  testing::write_text(folder.path() / "trainer_state.json", state.dump());
  folder.commit();
}

TEST(Train, AnOlderCheckpointResumesAndItsTensorsStillHaveToFit) {
  TinyRun run;
  run.facts.config = {{"quantization", {{"load_in_4bit", true}}}};
  run.options.max_steps = 4;
  run.options.save = {.strategy = Strategy::kSteps, .steps = 2};
  EventLog whole;
  run.run(whole);
  const fs::path first = run.run_dir() / "checkpoint-2";
  forget_sections(first);
  run.options.resume = first.string();
  run.use_run_dir("resumed");
  run.facts.lora.r = 8;
  EventLog log;
  EXPECT_ERROR(ConfigError, run.run(log), "lora.r and the model must be those");
  run.facts.lora.r = 64;
  run.run(log);
  EXPECT_EQ(log.losses().at(4), whole.losses().at(4));
}

}  // namespace
}  // namespace qlora::trainer
