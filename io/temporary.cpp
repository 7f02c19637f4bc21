#include "io/temporary.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <system_error>

#include "core/error.h"

namespace qlora::io {
namespace fs = std::filesystem;
namespace {

std::string random_suffix() {
  std::random_device device;
  return fmt::format("{:08x}", device());
}

std::string temporary_prefix(const fs::path& target) {
  return fmt::format(".{}.tmp-", target.filename().string());
}

bool is_free(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (descriptor < 0) return false;
  const bool locked = ::flock(descriptor, LOCK_EX | LOCK_NB) == 0;
  ::close(descriptor);
  return locked;
}

}  // namespace

fs::path parent_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

void fail_write(const fs::path& path, int error, uintmax_t needed_bytes) {
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    std::error_code ignored;
    const fs::space_info space = fs::space(parent_of(path), ignored);
    throw IoError(fmt::format(
        "[io] {}: {}: {} bytes needed, {} bytes free there; free some space, raise the "
        "limit or write elsewhere",
        path.string(), std::strerror(error), needed_bytes, ignored ? 0 : space.available));
  }
  throw IoError(fmt::format("[io] {}: cannot be written: {}", path.string(), std::strerror(error)));
}

void sync_directory(const fs::path& directory) {
  const int descriptor = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) fail_write(directory, errno, 0);
  const int failed =
      ::fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno;  // EINVAL: cannot be synced
  ::close(descriptor);
  if (failed != 0) fail_write(directory, failed, 0);
}

void remove_stale_temporaries(const fs::path& target) {
  const std::string prefix = temporary_prefix(target);
  std::error_code error;
  for (fs::directory_iterator it(parent_of(target), error), end; !error && it != end;
       it.increment(error)) {
    if (!it->path().filename().string().starts_with(prefix)) continue;
    std::error_code gone;
    const auto changed = fs::last_write_time(it->path(), gone);
    const bool old = !gone && fs::file_time_type::clock::now() - changed > std::chrono::minutes(1);
    if (old && is_free(it->path())) fs::remove_all(it->path(), gone);
  }
}

Temporary::Temporary(const fs::path& target, Kind kind) {
  QLORA_CHECK(target.has_filename(), IoError, "[io] '{}': names no file or directory",
              target.string());
  remove_stale_temporaries(target);
  do {
    path_ = parent_of(target) / (temporary_prefix(target) + random_suffix());
    if (kind == Kind::kFile) {
      descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } else if (::mkdir(path_.c_str(), 0777) == 0) {
      descriptor_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) {
    const int failed = errno;
    throw IoError(fmt::format("[io] {}: cannot be written: {} in {}", target.string(),
                              std::strerror(failed), parent_of(target).string()));
  }
  // Where the file system has no locks, the leftovers of a crash stay until somebody removes them.
  ::flock(descriptor_, LOCK_EX | LOCK_NB);
}

Temporary::~Temporary() {
  if (descriptor_ >= 0) ::close(descriptor_);
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

void replace_directory(const fs::path& temporary, const fs::path& target, Exchange exchange) {
  if (exchange == Exchange::kTry &&
      ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    return;
  }
  const int failed = errno;
  if (exchange == Exchange::kTry && failed != EINVAL && failed != ENOSYS)
    fail_write(target, failed, 0);
  const fs::path aside = target.string() + ".old-" + random_suffix();
  if (::rename(target.c_str(), aside.c_str()) != 0) fail_write(target, errno, 0);
  if (::rename(temporary.c_str(), target.c_str()) != 0) {
    const int error = errno;
    ::rename(aside.c_str(), target.c_str());
    fail_write(target, error, 0);
  }
  ::rename(aside.c_str(), temporary.c_str());  // as after an exchange: the caller removes it
}

void Temporary::rename_to(const fs::path& target) {
  struct stat status {};
  const bool directory = ::fstat(descriptor_, &status) == 0 && S_ISDIR(status.st_mode);
  std::error_code unseen;
  if (directory && fs::exists(target, unseen)) {
    replace_directory(path_, target);
    sync_directory(parent_of(target));
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  } else {
    if (::rename(path_.c_str(), target.c_str()) != 0) fail_write(target, errno, 0);
    sync_directory(parent_of(target));
  }
  path_.clear();
}

}  // namespace qlora::io
