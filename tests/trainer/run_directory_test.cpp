#include "trainer/run_directory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "io/atomic_file.h"
#include "tests/support/errors.h"
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
  write_text(run() / "adapter_model.safetensors", "x");
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "exists; go on with --resume auto");
  options.overwrite = true;
  EXPECT_FALSE(check_run_directory(options, log).checkpoint);
  EXPECT_TRUE(fs::exists(run() / "log.jsonl"));
  options.resume = "auto";
  EXPECT_THROW(check_run_directory(options, log), ConfigError);  // one of the two
  options.overwrite = false;
  EXPECT_FALSE(check_run_directory(options, log).checkpoint);
  EXPECT_EQ(log.notices.size(), 1u);
}

TEST_F(RunDirectory, ARunThatSavedNothingIsBegunAnew) {
  const auto files = {"config.resolved.json", "README.md", "notes.txt",
                      ".checkpoint-5.tmp-0a1b2c3d/optimizer.safetensors"};
  for (const char* name : files) write_text(run() / name, "x");
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "exists");  // no run has begun here
  write_text(run() / "log.jsonl", "{\"kind\":\"step\",\"step\":1}\n");
  const RunStart start = check_run_directory(options, log);
  EXPECT_FALSE(start.checkpoint);
  ASSERT_EQ(log.notices.size(), 1u);
  EXPECT_SAYS(log.notices.front(), "ended before it saved anything");
  EXPECT_FALSE(testing::read_text(run() / "log.jsonl").empty());  // nothing is done by asking
  prepare_run_directory(start, 0);
  EXPECT_TRUE(testing::read_text(run() / "log.jsonl").empty());
  for (const char* name : files) EXPECT_TRUE(fs::exists(run() / name)) << name;
}

TEST_F(RunDirectory, ARunThatAnotherMachineMayHoldIsNotBegunAnew) {
  write_text(run() / "log.jsonl", "x\n");
  for (const char* holder : {"", "process 77 on node-b\n"}) {
    write_text(run() / kLockFile, holder);
    EXPECT_ERROR(ConfigError, check_run_directory(options, log), "exists") << holder;
  }
  { const RunLock of_this_machine(run(), log); }
  EXPECT_NO_THROW(check_run_directory(options, log));
}

TEST_F(RunDirectory, WhatMayHoldATrainedAdapterIsNeverBegunAnew) {
  for (const char* name : {"adapter_model.safetensors", "qat_grids.safetensors",
                           "checkpoint-5/adapter_model.safetensors",   // damaged
                           "checkpoint-5.old-0a1b2c3d/manifest.json",  // killed between two renames
                           ".checkpoint-5.tmp-0a1b2c3d/manifest.json",  // killed before the rename
                           ".deleting-checkpoint-5/manifest.json"}) {
    fs::remove_all(run());
    write_text(run() / "log.jsonl", "x\n");
    write_text(run() / name, "x");
    EXPECT_ERROR(ConfigError, check_run_directory(options, log), "start over with --overwrite")
        << name;
  }
  EXPECT_TRUE(log.notices.empty());
}

TEST_F(RunDirectory, AFileIsRefused) {
  write_text(run(), "a file");
  options.overwrite = true;
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "run is a file");
  options.output_dir += "/below/it";
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "run is a file");
}

TEST_F(RunDirectory, OneThatHoldsNoRunIsNeverTakenOver) {
  write_text(run() / "README.md", "my project");
  write_text(run() / "runs" / "other" / "adapter_model.safetensors", "x");
  write_text(run() / "checkpoint-500" / "trainer_state.json", "of another program");
  options.overwrite = true;
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "holds no run");
  options.overwrite = false;
  options.resume = "auto";
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "holds no run");
  EXPECT_TRUE(fs::exists(run() / "README.md"));
  EXPECT_TRUE(fs::exists(run() / "checkpoint-500"));
}

TEST_F(RunDirectory, EachMarkOfARunAllowsToOverwriteIt) {
  options.overwrite = true;
  for (const char* name : {"a", "b", "c", "d"}) fs::create_directories(folder / name);
  write_text(folder / "b" / "log.jsonl", "x\n");
  write_text(folder / "c" / "config.resolved.json", "{}");
  make_checkpoint(folder / "d", 3);
  for (const char* name : {"a", "b", "c", "d"}) {  // a is empty
    options.output_dir = (folder / name).string();
    prepare_run_directory(check_run_directory(options, log), 0);
    EXPECT_TRUE(fs::is_empty(run())) << name;
  }
}

TEST_F(RunDirectory, WhatCannotBeMadeIsToldBeforeAnyWork) {
  fs::create_directory_symlink(folder / "nowhere", folder / "dangling");
  fs::create_directory_symlink(folder / "circle", folder / "circle");
  const std::string dangling = (folder / "dangling").string(),
                    circle = (folder / "circle").string();
  for (const char* below : {"", "/", "/run"}) {
    options.output_dir = dangling + below;
    EXPECT_ERROR(IoError, check_run_directory(options, log), "is a link to what is not there");
    options.output_dir = circle + below;
    EXPECT_ERROR(IoError, check_run_directory(options, log), "cannot be used");
  }
  options.output_dir = (folder / std::string(300, 'x')).string();
  EXPECT_ERROR(IoError, check_run_directory(options, log),
               "a name of 300 bytes, allowed: up to 255");
  options.output_dir = (folder / "new").string() + "/" + std::string(300, 'x');
  EXPECT_ERROR(IoError, check_run_directory(options, log), "a name of 300 bytes");
  EXPECT_EQ(folder.entries(), (std::vector<std::string>{"circle", "dangling"}));
}

/// A user who may not write everywhere, while it lives: root may.
class PlainUser {
 public:
  PlainUser() {
    if (is_root_) {
      EXPECT_EQ(setresuid(kNobody, kNobody, 0), 0);
    }
  }
  ~PlainUser() {
    if (is_root_) {
      EXPECT_EQ(setresuid(0, 0, 0), 0);
    }
  }

 private:
  static constexpr uid_t kNobody = 65534;
  const bool is_root_ = geteuid() == 0;
};

TEST_F(RunDirectory, WithoutPermissionItIsToldBeforeAnyWork) {
  const auto allow = [](const fs::path& path, int mode) {
    fs::permissions(path, static_cast<fs::perms>(mode));
  };
  allow(folder.path(), 0755);
  fs::create_directories(folder / "read-only");
  fs::create_directories(folder / "closed");
  allow(folder / "read-only", 0555);
  allow(folder / "closed", 0000);
  {
    const PlainUser user;
    options.output_dir = (folder / "read-only").string();
    EXPECT_ERROR(IoError, check_run_directory(options, log), "read-only: Permission denied");
    options.output_dir = (folder / "read-only").string() + "/new/run";
    EXPECT_ERROR(IoError, check_run_directory(options, log), "read-only: Permission denied");
    options.output_dir = (folder / "closed").string() + "/run";
    EXPECT_ERROR(IoError, check_run_directory(options, log), "Permission denied");
  }
  allow(folder / "closed", 0700);
  EXPECT_TRUE(fs::is_empty(folder / "read-only"));
  EXPECT_TRUE(fs::is_empty(folder / "closed"));
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

TEST_F(RunDirectory, ARunIsNoCheckpoint) {
  make_checkpoint(run(), 5);
  make_checkpoint(run(), 7);
  options.resume = run().string();
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "is the folder of a run");
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "run/checkpoint-7");
  fs::remove_all(run());
  write_text(run() / "log.jsonl", "x\n");
  EXPECT_ERROR(ConfigError, check_run_directory(options, log), "there is none");
  fs::remove(run() / "log.jsonl");
  EXPECT_ERROR(FormatError, check_run_directory(options, log), "no manifest.json");
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
  const auto written = {"config.resolved.json",
                        "log.jsonl",
                        "README.md",
                        "loss.svg",
                        "adapter_model.safetensors",
                        "adapter_config.json",
                        "base_model.json",
                        "qat_grids.safetensors",
                        "runs/events.out.tfevents.1.host.2.0"};
  const auto others = {"thesis.txt", "report.json", "runs/other/log.jsonl", "runs/notes.txt"};
  for (const char* name : written) write_text(run() / name, "x");
  for (const char* name : others) write_text(run() / name, "mine");
  options.overwrite = true;
  prepare_run_directory(check_run_directory(options, log), 0);
  EXPECT_FALSE(fs::exists(run() / "checkpoint-5"));
  for (const char* name : written) EXPECT_FALSE(fs::exists(run() / name)) << name;
  for (const char* name : others) EXPECT_TRUE(fs::exists(run() / name)) << name;

  fs::remove_all(run() / "runs");
  write_text(run() / "log.jsonl", "x\n");
  write_text(run() / "runs" / "events.out.tfevents.1.host.2.0", "x");
  prepare_run_directory(check_run_directory(options, log), 0);
  EXPECT_FALSE(fs::exists(run() / "runs"));  // nothing else was in it
}

TEST_F(RunDirectory, ResumingDropsWhatLiesBehindTheCheckpoint) {
  for (const int64_t step : {5, 10}) make_checkpoint(run(), step);
  const std::string first = R"({"kind":"step","step":5,"loss":1})"
                            "\n";
  write_text(run() / "log.jsonl", first + R"({"kind":"step","step":6,"loss":1})"
                                          "\n");
  options.resume = (run() / "checkpoint-5").string();
  prepare_run_directory(check_run_directory(options, log), 5);
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
