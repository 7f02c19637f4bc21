#include "trainer/run_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "core/error.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"
#include "tests/trainer/tiny_run.h"
#include "trainer/run_directory.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;
using testing::EventLog;
using testing::TemporaryFolder;
using testing::TinyRun;

TEST(RunLock, ASecondRunIsToldWhoHoldsTheFolder) {
  const TemporaryFolder folder;
  NullLog log;
  TrainOptions options;
  options.output_dir = (folder / "a/run").string();
  options.overwrite = true;
  {
    const RunLock lock(options.output_dir, log);
    const std::string holder = fmt::format("process {} on ", getpid());
    EXPECT_ERROR(ConfigError, check_run_directory(options, log), holder);
    EXPECT_ERROR(ConfigError, RunLock(options.output_dir, log), "is in use");
    EXPECT_NO_THROW(check_run_directory(options, log, &lock));  // for its holder it is empty
  }
  EXPECT_FALSE(fs::exists(options.output_dir));  // it was made for nothing
  EXPECT_NO_THROW(RunLock(options.output_dir, log));
}

TEST(RunLock, LeavesWhatTheRunWrote) {
  const TemporaryFolder folder;
  NullLog log;
  {
    const RunLock lock(folder / "made", log);
    testing::write_text(folder / "made/log.jsonl", "x\n");
  }
  EXPECT_FALSE(fs::exists(folder / "made" / kLockFile));
  EXPECT_TRUE(fs::exists(folder / "made/log.jsonl"));
  fs::create_directories(folder / "found");
  { const RunLock lock(folder / "found", log); }
  EXPECT_TRUE(fs::is_empty(folder / "found"));
}

TEST(RunLock, AFileThatAKilledRunLeftHoldsNothing) {
  const TemporaryFolder folder;
  const auto run = folder / "run";
  fs::create_directories(run);
  testing::write_text(run / kLockFile, "process 1 on somewhere-else-with-a-longer-name\n");
  NullLog log;
  TrainOptions options;
  options.output_dir = run.string();
  EXPECT_NO_THROW(check_run_directory(options, log));  // nor is it content
  const RunLock lock(run, log);
  EXPECT_SAYS(testing::read_text(run / kLockFile), fmt::format("process {} on ", getpid()));
  EXPECT_EQ(testing::read_text(run / kLockFile).find("else"), std::string::npos);
}

TEST(RunLock, LeavesTheFileOfARunThatTookTheNameOver) {
  const TemporaryFolder folder;
  const auto run = folder / "run";
  NullLog log;
  std::optional<RunLock> old(std::in_place, run, log);
  fs::remove_all(run);
  const RunLock lock(run, log);
  old.reset();
  EXPECT_TRUE(fs::exists(run / kLockFile));
  EXPECT_ERROR(ConfigError, check_not_locked(run), "is in use");
}

TEST(RunLock, SaysWhyItCannotBeMade) {
  const TemporaryFolder folder;
  NullLog log;
  fs::create_directories(folder / "run" / kLockFile);
  EXPECT_ERROR(IoError, RunLock(folder / "run", log), ".qlora.lock: Is a directory");
  testing::write_text(folder / "file", "x");
  EXPECT_ERROR(IoError, RunLock(folder / "file/run", log), "cannot make output_dir");
}

TEST(RunLock, TrainingHoldsItWhereItsCallerDoesNot) {
  TinyRun run;
  run.options.max_steps = 2;
  EventLog log;
  bool is_held = false;
  log.on_event = [&](const std::string& kind, const nlohmann::json&) {
    if (kind != "step") return;
    EXPECT_ERROR(ConfigError, check_not_locked(run.run_dir()), "is in use");
    is_held = true;
  };
  run.run(log);
  EXPECT_TRUE(is_held);
  EXPECT_FALSE(fs::exists(run.run_dir() / kLockFile));

  log.on_event = nullptr;
  run.options.overwrite = true;
  const RunLock held(run.run_dir(), log);
  EXPECT_ERROR(ConfigError, run.run(log), "is in use");
  EXPECT_TRUE(fs::exists(run.run_dir() / "adapter_model.safetensors"));
  run.facts.lock = &held;
  EXPECT_EQ(run.run(log).steps, 2);
  EXPECT_TRUE(fs::exists(run.run_dir() / kLockFile));  // its caller still holds it
}

}  // namespace
}  // namespace qlora::trainer
