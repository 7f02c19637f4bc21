#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/run_log.h"
#include "trainer/run_lock.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

/// Where a run writes, and what it goes on from.
struct RunStart {
  std::filesystem::path run_dir;
  std::optional<std::filesystem::path> checkpoint;  // complete; unset: from the beginning
  bool starts_over = false;                         // what an earlier run wrote is removed first
};

/// Decides how the run starts. Changes nothing on disk: callers ask before any heavy work.
///   (neither)  output_dir is free or empty, or holds a run that ended before it saved anything: it
///              is begun anew, after a notice, as resume "auto" does where there is no checkpoint
///   overwrite  allows an output_dir that holds a run: log.jsonl, config.resolved.json or a
///              complete checkpoint. What holds something else is refused
///   resume     "auto": the newest checkpoint that is complete, after a warning for each newer one
///              that is not; where there is none the run starts from the beginning; refuses what
///              holds no run as overwrite does. A path: that checkpoint
///   held       the caller's lock of output_dir, null where it has none
///   throws     ConfigError where output_dir is there and neither allows it, or both are set, or
///              resume names a run's folder, or another run holds the lock; FormatError where the
///              named checkpoint is not complete; IoError where it is missing, or output_dir cannot
///              be made or written
RunStart check_run_directory(const TrainOptions& options, RunLog& log,
                             const RunLock* held = nullptr);

/// Makes the run directory. Where the run starts over, removes what an earlier run wrote, nothing
/// else: of TensorBoard's folder the event files, and the folder where it is then empty. What lies
/// behind the step that the run goes on from (lines of the log, checkpoints) is removed: this run
/// writes it anew.
///   step      of the checkpoint, 0 at the beginning
void prepare_run_directory(const RunStart& start, int64_t step);

struct CheckpointPath {
  int64_t step = 0;
  std::filesystem::path path;
};

/// Everything in the run directory that is called checkpoint-N, by rising N.
std::vector<CheckpointPath> list_checkpoints(const std::filesystem::path& run_dir);

std::filesystem::path checkpoint_path(const std::filesystem::path& run_dir, int64_t step);

/// Deletes the oldest checkpoints beyond `limit`; never the newest, nor that of step `keep`.
///   limit     0: deletes nothing
void prune_checkpoints(const std::filesystem::path& run_dir, int64_t limit, int64_t keep);

}  // namespace qlora::trainer
