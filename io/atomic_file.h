#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/sha256.h"  // callers of this header hash what they write
#include "io/temporary.h"

namespace qlora::io {

/// A file that appears complete or not at all: written beside its target, fsynced, renamed.
class AtomicFile {
 public:
  /// throws IoError where the temporary file cannot be made
  explicit AtomicFile(std::filesystem::path target);  // without commit() nothing is left behind

  /// throws IoError; where space ran out, with the needed and the free bytes
  void append(std::span<const std::byte> bytes);
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void reserve(
      uint64_t size_bytes);  // asks for the space at once, so that a full disk is found early
  void commit();             // fsync, rename over the target, fsync of the directory

 private:
  std::filesystem::path target_;
  Temporary temporary_;
  uint64_t end_ = 0;
  uint64_t expected_ = 0;
};

/// Replaces `path` by `content`; on any error the old file stays as it was.
void write_file_atomic(const std::filesystem::path& path, std::span<const std::byte> content);
void write_file_atomic(const std::filesystem::path& path, std::string_view content);

/// Whole content of a small file.
///   throws    IoError where it cannot be read; FormatError where it is longer than limit_bytes
std::string read_file(const std::filesystem::path& path, uint64_t limit_bytes = uint64_t{1} << 30);

/// False where nothing of that name is.
///   throws    IoError where the system cannot tell: no permission, a loop of links, a name too
///   long
bool is_present(const std::filesystem::path& path);

/// The entries of a folder, sorted; empty where there is no such folder.
///   throws    IoError where it cannot be read
std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder);

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

  const std::filesystem::path& path() const { return temporary_.path(); }  // write files here

  /// Writes manifest.json (sizes and SHA-256 of all files), fsyncs everything, renames.
  void commit();

 private:
  std::filesystem::path target_;
  IfExists if_exists_;
  Temporary temporary_;
};

/// What is wrong with a directory against its manifest.json, or nothing. Every listed file is read.
/// Files that the manifest does not list are no problem.
std::optional<std::string> manifest_problem(const std::filesystem::path& directory);

/// throws FormatError with manifest_problem's text
void verify_manifest(const std::filesystem::path& directory);

}  // namespace qlora::io
