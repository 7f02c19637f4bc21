#include "trainer/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;

// Together longer than another start takes to look at the lock, or its holder to remove the file.
constexpr int kTries = 20;
constexpr auto kPause = std::chrono::milliseconds(10);

/// "process 4711 on host", as the lock file has it.
std::string holder_of(const fs::path& run_dir) {
  std::string holder;
  std::ifstream file(run_dir / kLockFile);
  std::getline(file, holder);
  return holder;
}

std::string this_host() {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  return host;
}

[[noreturn]] void refuse_held(const fs::path& run_dir) {
  constexpr size_t kLongest = 100;
  const std::string holder = holder_of(run_dir);
  throw ConfigError(fmt::format(
      "[trainer] output_dir {} is in use: {} trains there; wait until it has ended, stop it, or "
      "choose another output_dir",
      run_dir.string(), holder.empty() ? "another process" : holder.substr(0, kLongest)));
}

/// False where the name stands for another file by now: the holder before has removed this one.
bool is_in_place(int descriptor, const fs::path& file) {
  struct stat held = {}, named = {};
  return ::fstat(descriptor, &held) == 0 && ::stat(file.c_str(), &named) == 0 &&
         held.st_ino == named.st_ino && held.st_dev == named.st_dev;
}

struct Attempt {
  int descriptor = -1;  // open and locked
  int problem = 0;      // why it is not
};

Attempt try_lock(const fs::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor < 0) return {.problem = errno};
  int problem = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
  if (problem == 0 && !is_in_place(descriptor, file)) problem = EWOULDBLOCK;
  if (problem == 0) return {.descriptor = descriptor};
  ::close(descriptor);
  return {.problem = problem};
}

/// ENOENT: a holder that has ended took the directory with it.
bool may_pass(int problem) {
  return problem == EWOULDBLOCK || problem == EINTR || problem == ENOENT;
}

bool means_no_locks(int problem) {
  return problem == ENOLCK || problem == EOPNOTSUPP || problem == ENOSYS;
}

/// For who is refused. That it cannot be written is no reason to stop.
void write_holder(const fs::path& file) {
  std::ofstream(file, std::ios::trunc)
      << fmt::format("process {} on {}\n", ::getpid(), this_host());
}

}  // namespace

RunLock::RunLock(const fs::path& run_dir, RunLog& log) : run_dir_(run_dir) {
  const fs::path file = run_dir / kLockFile;
  Attempt attempt;
  for (int tries = 0; tries < kTries; ++tries) {
    if (tries > 0) std::this_thread::sleep_for(kPause);
    std::error_code error;
    made_directory_ |= fs::create_directories(run_dir, error);
    QLORA_CHECK(!error, IoError, "[trainer] cannot make output_dir {}: {}", run_dir.string(),
                error.message());
    attempt = try_lock(file);
    if (!may_pass(attempt.problem)) break;
  }
  descriptor_ = attempt.descriptor;
  if (attempt.problem == EWOULDBLOCK) refuse_held(run_dir);
  QLORA_CHECK(descriptor_ >= 0 || means_no_locks(attempt.problem), IoError,
              "[trainer] output_dir {} cannot be written: {}: {}; choose another output_dir",
              run_dir.string(), file.string(), std::strerror(attempt.problem));
  write_holder(file);
  if (descriptor_ >= 0) return;
  log.warn(
      fmt::format("[trainer] the file system of {} has no locks: see to it that no second run "
                  "writes there",
                  run_dir.string()));
}

RunLock::~RunLock() {
  const fs::path file = run_dir_ / kLockFile;
  std::error_code ignored;
  // While it is held. Where the folder was made anew meanwhile, the file is another run's.
  if (descriptor_ < 0 || is_in_place(descriptor_, file)) fs::remove(file, ignored);
  if (descriptor_ >= 0) ::close(descriptor_);
  if (made_directory_) fs::remove(run_dir_, ignored);  // fails where something is in it
}

void check_not_locked(const fs::path& run_dir) {
  const fs::path file = run_dir / kLockFile;
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return;
  const bool is_held = ::flock(descriptor, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(descriptor);
  if (is_held) refuse_held(run_dir);
}

bool may_be_held_elsewhere(const fs::path& run_dir) {
  std::error_code error;
  const bool is_there =
      fs::symlink_status(run_dir / kLockFile, error).type() != fs::file_type::not_found;
  return is_there && !holder_of(run_dir).ends_with(" on " + this_host());
}

}  // namespace qlora::trainer
