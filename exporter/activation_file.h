#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>

namespace qlora::exporter {

/// Rows of activations [rows, width] on disk: calibration holds one batch of them in memory.
/// Written through the page cache, so that what fits there is never read from the disk.
class ActivationFile {
 public:
  /// Opens the file, or makes it with the space it needs.
  ///   throws    IoError where that fails (needed and free bytes)
  ActivationFile(const std::filesystem::path& path, int64_t rows, int64_t width,
                 torch::ScalarType dtype);
  ~ActivationFile();
  ActivationFile(ActivationFile&& other) noexcept;
  ActivationFile& operator=(ActivationFile&&) = delete;

  /// rows [begin, begin + count).  [count, width]
  torch::Tensor read(int64_t begin, int64_t count) const;
  /// values [count, width] of the file's dtype, contiguous
  void write(int64_t begin, const torch::Tensor& values);
  /// Returns when everything written is on the disk.
  void sync() const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  int64_t rows_, width_;
  torch::ScalarType dtype_;
};

}  // namespace qlora::exporter
