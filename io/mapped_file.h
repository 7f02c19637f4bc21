#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace qlora::io {

/// A whole file mapped for reading. Moves, does not copy; the mapping lives as long as the object.
///   Requires  the file is not shortened while it is mapped (the system would send SIGBUS)
class MappedFile {
 public:
  /// throws IoError where the path is missing, unreadable or not a regular file
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Gives the pages that hold `part` back to the system; later reads fetch them again.
  /// Their neighbours in the same pages go too, which costs time but never data.
  void release(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace qlora::io
