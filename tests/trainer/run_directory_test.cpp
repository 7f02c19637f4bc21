#include "trainer/run_directory.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "io/atomic_file.h"
#include "tests/support/temporary_folder.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

void write_text(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  testing::write_text(path, text);
}

/// Keeps what it is told.
class ListLog final : public RunLog {
 public:
  void notice(const std::string& text) override { notices.push_back(text); }
  void warn(const std::string& text) override { warnings.push_back(text); }
  void live(const std::string&) override {}
  void event(const std::string&, const nlohmann::json&) override {}
  std::vector<std::string> notices, warnings;
};

void make_checkpoint(const fs::path& run_dir, int64_t step) {
  fs::create_directories(run_dir);
  io::AtomicDirectory folder(checkpoint_path(run_dir, step));
  write_text(folder.path() / "trainer_state.json", "{}");
  folder.commit();
}

std::vector<int64_t> steps_of(const fs::path& run_dir) {
  std::vector<int64_t> steps;
  for (const CheckpointPath& checkpoint : list_checkpoints(run_dir)) {
    steps.push_back(checkpoint.step);
  }
  return steps;
}

class RunDirectory : public ::testing::Test {
 protected:
  RunDirectory() { options.output_dir = (folder / "run").string(); }
  fs::path run() const { return options.output_dir; }

  TemporaryFolder folder;
  TrainOptions options;
  ListLog log;
};

TEST_F(RunDirectory, AFreeOrEmptyOneIsTaken) {
  EXPECT_FALSE(check_run_directory(options, log).checkpoint);
  EXPECT_FALSE(fs::exists(run()));  // nothing is made by asking
  fs::create_directories(run());
  EXPECT_EQ(check_run_directory(options, log).run_dir, run());
}

TEST_F(RunDirectory, OneThatIsThereIsRefusedUnlessToldOtherwise) {
  write_text(run() / "log.jsonl", "x\n");
  EXPECT_THROW(check_run_directory(options, log), ConfigError);
  options.overwrite = true;
  EXPECT_FALSE(check_run_directory(options, log).checkpoint);
  EXPECT_TRUE(fs::exists(run() / "log.jsonl"));
  options.resume = "auto";
  EXPECT_THROW(check_run_directory(options, log), ConfigError);  // one of the two
  options.overwrite = false;
  EXPECT_FALSE(check_run_directory(options, log).checkpoint);
  EXPECT_EQ(log.notices.size(), 1u);
}

TEST_F(RunDirectory, AFileIsRefused) {
  write_text(run(), "a file");
  options.overwrite = true;
  EXPECT_THROW(check_run_directory(options, log), ConfigError);
}

TEST_F(RunDirectory, AutoTakesTheNewestCompleteCheckpoint) {
  options.resume = "auto";
  EXPECT_FALSE(check_run_directory(options, log).checkpoint);  // nothing there: a first start
  for (const int64_t step : {5, 9, 10, 100}) make_checkpoint(run(), step);
  EXPECT_EQ(check_run_directory(options, log).checkpoint, checkpoint_path(run(), 100));
  write_text(run() / "checkpoint-100" / "trainer_state.json", "{ }");  // not what was hashed
  fs::remove(run() / "checkpoint-10" / "manifest.json");
  fs::create_directories(run() / "checkpoint-11");  // never completed
  EXPECT_EQ(check_run_directory(options, log).checkpoint, checkpoint_path(run(), 9));
  EXPECT_EQ(log.warnings.size(), 3u);
  EXPECT_NE(log.warnings[0].find("checkpoint-100 is not complete"), std::string::npos);
}

TEST_F(RunDirectory, ANamedCheckpointHasToBeComplete) {
  make_checkpoint(run(), 5);
  make_checkpoint(run(), 7);
  options.resume = (run() / "checkpoint-5").string();
  EXPECT_EQ(check_run_directory(options, log).checkpoint, run() / "checkpoint-5");
  options.resume += '/';
  EXPECT_TRUE(check_run_directory(options, log).checkpoint);
  write_text(run() / "checkpoint-5" / "trainer_state.json", "");
  EXPECT_THROW(check_run_directory(options, log), FormatError);
  options.resume = (run() / "checkpoint-6").string();
  EXPECT_THROW(check_run_directory(options, log), IoError);
}

TEST_F(RunDirectory, ACheckpointOfAnotherRunNeedsANewDirectory) {
  make_checkpoint(folder / "other", 5);
  options.resume = (folder / "other" / "checkpoint-5").string();
  EXPECT_TRUE(check_run_directory(options, log).checkpoint);
  write_text(run() / "log.jsonl", "x\n");
  EXPECT_THROW(check_run_directory(options, log), ConfigError);
}

TEST_F(RunDirectory, OverwriteRemovesWhatARunWroteAndNothingElse) {
  make_checkpoint(run(), 5);
  write_text(run() / "log.jsonl", "x\n");
  write_text(run() / "runs" / "events", "x");
  write_text(run() / "thesis.txt", "mine");
  options.overwrite = true;
  prepare_run_directory(options, check_run_directory(options, log), 0);
  EXPECT_FALSE(fs::exists(run() / "log.jsonl"));
  EXPECT_FALSE(fs::exists(run() / "runs"));
  EXPECT_FALSE(fs::exists(run() / "checkpoint-5"));
  EXPECT_TRUE(fs::exists(run() / "thesis.txt"));
}

TEST_F(RunDirectory, ResumingDropsWhatLiesBehindTheCheckpoint) {
  for (const int64_t step : {5, 10}) make_checkpoint(run(), step);
  const std::string first = R"({"kind":"step","step":5,"loss":1})"
                            "\n";
  write_text(run() / "log.jsonl", first + R"({"kind":"step","step":6,"loss":1})"
                                          "\n");
  options.resume = (run() / "checkpoint-5").string();
  prepare_run_directory(options, check_run_directory(options, log), 5);
  EXPECT_EQ(steps_of(run()), std::vector<int64_t>{5});
  EXPECT_EQ(testing::read_text(run() / "log.jsonl"), first);
}

TEST_F(RunDirectory, ListsByNumberAndIgnoresOthers) {
  for (const int64_t step : {9, 10, 100}) make_checkpoint(run(), step);
  for (const char* name : {"checkpoint-", "checkpoint-1x", "checkpoint--4", "checkpoints-3",
                           "checkpoint-99999999999999999999"}) {
    fs::create_directories(run() / name);
  }
  write_text(run() / "checkpoint-3", "a file");
  EXPECT_EQ(steps_of(run()), (std::vector<int64_t>{9, 10, 100}));
  EXPECT_TRUE(list_checkpoints(folder / "nowhere").empty());
}

TEST_F(RunDirectory, PruningKeepsTheNewestAndTheBest) {
  for (const int64_t step : {1, 2, 3, 4, 5}) make_checkpoint(run(), step);
  prune_checkpoints(run(), 0, -1);
  EXPECT_EQ(steps_of(run()).size(), 5u);
  prune_checkpoints(run(), 3, 2);
  EXPECT_EQ(steps_of(run()), (std::vector<int64_t>{2, 4, 5}));
  prune_checkpoints(run(), 1, 2);
  EXPECT_EQ(steps_of(run()), (std::vector<int64_t>{2, 5}));
  prune_checkpoints(run(), 1, -1);
  EXPECT_EQ(steps_of(run()), std::vector<int64_t>{5});
}

TEST_F(RunDirectory, WhatAKilledPruningLeftIsRemoved) {
  make_checkpoint(run(), 1);
  fs::create_directories(run() / ".deleting-checkpoint-0");
  prune_checkpoints(run(), 0, -1);
  EXPECT_FALSE(fs::exists(run() / ".deleting-checkpoint-0"));
}

}  // namespace
}  // namespace qlora::trainer
