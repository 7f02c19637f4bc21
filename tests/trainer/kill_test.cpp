// kill -9 while checkpoints are written: whatever the moment, a usable one is left.
#include <gtest/gtest.h>
#include <signal.h>

#include "core/rng.h"
#include "io/atomic_file.h"
#include "tests/support/run_program.h"
#include "tests/trainer/tiny_run.h"
#include "trainer/run_directory.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;

/// True while something that is no checkpoint-N lies beside the checkpoints: one is being written.
bool is_saving(const fs::path& run_dir) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory(error) && name != "runs" && !name.starts_with("checkpoint-"))
      return true;
  }
  return false;
}

TEST(Kill, LeavesAUsableCheckpoint) {
  const testing::TemporaryFolder folder;
  testing::write_tiny_checkpoint(folder / "model");
  const fs::path run_dir = folder / "run";
  Rng rng(1);
  int killed_in_saving = 0;
  int64_t newest = 0;
  for (int round = 0; round < 4; ++round) {
    const int64_t wanted = newest + 2;  // at least so far, so that rounds build on each other
    const auto wait = static_cast<int>(rng.below(4));
    int seen = 0;
    bool killed = false;
    testing::ProgramInput input;
    input.while_running = [&](pid_t child) {
      const auto checkpoints = list_checkpoints(run_dir);
      if (checkpoints.empty() || checkpoints.back().step < wanted) return;
      if (is_saving(run_dir) && seen++ >= wait) {
        killed = true;  // and again until it is gone
        ::kill(child, SIGKILL);
      }
    };
    const auto result = testing::run_program(
        QLORA_KILL_CHILD, {(folder / "model").string(), run_dir.string()}, input);
    ASSERT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
    killed_in_saving += killed;

    TrainOptions options;
    options.output_dir = run_dir.string();
    options.resume = "auto";
    testing::EventLog log;
    const RunStart start = check_run_directory(options, log);
    ASSERT_TRUE(start.checkpoint);
    newest = list_checkpoints(run_dir).back().step;
    EXPECT_GE(newest, wanted);
    EXPECT_FALSE(io::manifest_problem(*start.checkpoint));
    EXPECT_TRUE(log.warnings.empty()) << log.warnings.front();  // what is there is complete
  }
  EXPECT_EQ(killed_in_saving, 4);
}

}  // namespace
}  // namespace qlora::trainer
