#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace qlora::io {

/// A file that appears complete or not at all: written beside its target, fsynced, renamed.
class AtomicFile {
 public:
  /// throws IoError where the temporary file cannot be made
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();  // removes an uncommitted temporary
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// throws IoError; where space ran out, with the needed and the free bytes
  void append(std::span<const std::byte> bytes);
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void commit();  // fsync, rename over the target, fsync of the directory

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  uint64_t end_ = 0;
};

/// Replaces `path` by `content`; on any error the old file stays as it was.
void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> content);
void write_file_atomic(const std::filesystem::path& path, std::string_view content);

/// Whole content of a small file.
///   throws    IoError where it cannot be read; FormatError where it is longer than limit_bytes
std::string read_file(const std::filesystem::path& path, uint64_t limit_bytes = uint64_t{1} << 30);

enum class IfExists { kRefuse, kReplace };

/// A directory that appears complete or not at all, with manifest.json inside.
///   Example   AtomicDirectory d(run / "checkpoint-10"); save_to(d.path()); d.commit();
///   Crash     whenever the process dies, the target is the old directory or the new one; what the
///             dead process left beside it is removed by the next AtomicDirectory of the same
///             target
class AtomicDirectory {
 public:
  /// throws IoError where the target exists and if_exists is kRefuse, or where the parent cannot be
  /// written
  explicit AtomicDirectory(std::filesystem::path target, IfExists if_exists = IfExists::kRefuse);
  ~AtomicDirectory();  // removes an uncommitted temporary
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::filesystem::path& path() const { return temporary_; }  // write files here

  /// Writes manifest.json (sizes and SHA-256 of all files), fsyncs everything, renames.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  IfExists if_exists_;
  int lock_ = -1;
};

/// What is wrong with a directory against its manifest.json, or nothing. Every listed file is read.
/// Files that the manifest does not list are no problem.
std::optional<std::string> manifest_problem(const std::filesystem::path& directory);

/// throws FormatError with manifest_problem's text
void verify_manifest(const std::filesystem::path& directory);

}  // namespace qlora::io
