#pragma once

#include <filesystem>

#include "core/run_log.h"

namespace qlora::trainer {

/// The hidden file in a run directory that a run holds locked. By itself it means nothing: the
/// kernel drops the lock with the process.
inline constexpr const char* kLockFile = ".qlora.lock";

/// Keeps a run directory for one run: the lock is held while this lives.
///   Made       the directory and the file where they are missing; at the end the file goes again,
///              and so does a directory that was made here and is still empty
///   No locks   in the file system: a warning, and the run goes on; the file names its holder
class RunLock {
 public:
  /// throws ConfigError where another run holds it; IoError where the file cannot be made
  RunLock(const std::filesystem::path& run_dir, RunLog& log);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  std::filesystem::path run_dir_;
  bool made_directory_ = false;
  int descriptor_ = -1;  // below 0: the file system has no locks
};

/// Changes nothing on disk.
///   throws    ConfigError naming the process where a run holds the directory's lock
void check_not_locked(const std::filesystem::path& run_dir);

/// Whether a lock file is there that a process of another machine wrote, or of which that cannot be
/// told. Between machines some file systems keep no locks: its run may be alive.
bool may_be_held_elsewhere(const std::filesystem::path& run_dir);

}  // namespace qlora::trainer
