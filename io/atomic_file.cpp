#include "io/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace qlora::io {
namespace fs = std::filesystem;

AtomicFile::AtomicFile(fs::path target)
    : target_(std::move(target)), temporary_(target_, Temporary::Kind::kFile) {}

void AtomicFile::reserve(uint64_t size_bytes) {
  expected_ = std::max(expected_, size_bytes);
  if (size_bytes == 0 ||
      ::fallocate(temporary_.descriptor(), 0, 0, static_cast<off_t>(size_bytes)) == 0)
    return;
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
    fail_write(target_, errno, size_bytes);
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  write_at(end_, bytes);
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  const uint64_t end = offset + bytes.size();
  while (!bytes.empty()) {
    const ssize_t written =
        ::pwrite(temporary_.descriptor(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_write(target_, errno, std::max(expected_, end));
    offset += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  end_ = std::max(end_, end);
}

void AtomicFile::commit() {
  if (::fsync(temporary_.descriptor()) != 0) fail_write(target_, errno, std::max(expected_, end_));
  temporary_.rename_to(target_);
}

void write_file_atomic(const fs::path& path, std::span<const std::byte> content) {
  AtomicFile file(path);
  file.reserve(content.size());
  file.append(content);
  file.commit();
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  write_file_atomic(path, std::as_bytes(std::span(content)));
}

std::string read_file(const fs::path& path, uint64_t limit_bytes) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  QLORA_CHECK(descriptor >= 0, IoError, "[io] {}: cannot be opened: {}", path.string(),
              std::strerror(errno));
  std::string content;
  ssize_t got = 0;
  do {
    const size_t size = content.size();
    content.resize(size +
                   std::min<uint64_t>(std::max<size_t>(size, 1 << 16), limit_bytes + 1 - size));
    got = ::read(descriptor, content.data() + size, content.size() - size);
    content.resize(size + static_cast<size_t>(std::max<ssize_t>(got, 0)));
  } while ((got > 0 && content.size() <= limit_bytes) || (got < 0 && errno == EINTR));
  const int error = errno;
  ::close(descriptor);
  QLORA_CHECK(got >= 0, IoError, "[io] {}: cannot be read: {}", path.string(),
              std::strerror(error));
  QLORA_CHECK(content.size() <= limit_bytes, FormatError,
              "[io] {}: longer than {} bytes, the most that is allowed", path.string(),
              limit_bytes);
  return content;
}

bool is_present(const fs::path& path) {
  std::error_code error;
  const bool found = fs::exists(path, error);
  QLORA_CHECK(!error, IoError, "[io] {}: cannot be looked at: {}", path.string(), error.message());
  return found;
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  if (!is_present(folder)) return entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    entries.push_back(it->path());
  }
  QLORA_CHECK(!error, IoError, "[io] {}: cannot be read: {}", folder.string(), error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

}  // namespace qlora::io
