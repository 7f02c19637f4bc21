#pragma once

#include <cstdint>
#include <filesystem>

namespace qlora::io {

/// A file or directory `.NAME.tmp-XXXXXXXX` beside its target, removed by the destructor unless it
/// was renamed into place. It holds a lock that the kernel drops when the process dies, so that the
/// next one for the same target can tell a leftover from a save that is under way.
class Temporary {
 public:
  enum class Kind { kFile, kDirectory };

  /// throws IoError where the parent is missing or cannot be written
  Temporary(const std::filesystem::path& target, Kind kind);
  ~Temporary();
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_; }  // of a file: open for writing

  /// Renames over the target and makes the rename durable.
  ///   Exists    a file is replaced; a directory is exchanged in one step, and the old one removed
  void rename_to(const std::filesystem::path& target);

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

/// Removes what dead processes left beside `target`. Younger ones than a minute are let be: their
/// owner may be between creating and locking.
void remove_stale_temporaries(const std::filesystem::path& target);

/// Steps of Temporary::rename_to for a directory that replaces another. Without an exchange in the
/// file system (NFS), the old one is named NAME.old-XXXXXXXX for the moment between two renames.
enum class Exchange { kTry, kNever };
void replace_directory(const std::filesystem::path& temporary, const std::filesystem::path& target,
                       Exchange exchange = Exchange::kTry);

/// Makes the entries of a directory durable.
void sync_directory(const std::filesystem::path& directory);

/// The folder that holds a path; "." for a bare name.
std::filesystem::path parent_of(const std::filesystem::path& path);

/// throws IoError with the reason; for "no space left" and "file too large" with the bytes that
///        were needed and those that are free
[[noreturn]] void fail_write(const std::filesystem::path& path, int error, uintmax_t needed_bytes);

}  // namespace qlora::io
