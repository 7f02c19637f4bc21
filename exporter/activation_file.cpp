#include "exporter/activation_file.h"

#include <ATen/ops/empty.h>
#include <fcntl.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/memory.h"

namespace qlora::exporter {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, const char* what, int error) {
  throw IoError(fmt::format("[export] {} cannot be {}: {}; {} bytes are free there", path.string(),
                            what, std::strerror(error), available_disk_bytes(path.parent_path())));
}

}  // namespace

ActivationFile::ActivationFile(const std::filesystem::path& path, int64_t rows, int64_t width,
                               torch::ScalarType dtype)
    : path_(path), rows_(rows), width_(width), dtype_(dtype) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail(path, "opened", errno);
  const auto bytes = static_cast<off_t>(rows * width * static_cast<int64_t>(elementSize(dtype)));
  const int error = bytes > 0 ? ::posix_fallocate(descriptor_, 0, bytes) : 0;
  if (error != 0) {
    ::close(descriptor_);
    throw IoError(
        fmt::format("[export] {} needs {} bytes for activations, {} are free; give a "
                    "work_dir with more space or fewer calibration tokens",
                    path.string(), bytes, available_disk_bytes(path.parent_path())));
  }
}

ActivationFile::~ActivationFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

ActivationFile::ActivationFile(ActivationFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      rows_(other.rows_),
      width_(other.width_),
      dtype_(other.dtype_) {}

torch::Tensor ActivationFile::read(int64_t begin, int64_t count) const {
  assert(begin >= 0 && begin + count <= rows_ && "rows lie in the file");
  torch::Tensor out = at::empty({count, width_}, torch::TensorOptions(dtype_));
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  auto left = static_cast<size_t>(out.nbytes());
  auto offset = static_cast<off_t>(begin * width_ * out.element_size());
  while (left > 0) {
    const ssize_t got = ::pread(descriptor_, to, left, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) fail(path_, "read", got == 0 ? EIO : errno);
    to += got;
    offset += got;
    left -= static_cast<size_t>(got);
  }
  return out;
}

void ActivationFile::write(int64_t begin, const torch::Tensor& values) {
  assert(values.scalar_type() == dtype_ && values.is_contiguous() && values.size(1) == width_);
  assert(begin >= 0 && begin + values.size(0) <= rows_ && "rows lie in the file");
  const auto* from = static_cast<const char*>(values.const_data_ptr());
  auto left = static_cast<size_t>(values.nbytes());
  auto offset = static_cast<off_t>(begin * width_ * values.element_size());
  while (left > 0) {
    const ssize_t put = ::pwrite(descriptor_, from, left, offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail(path_, "written", errno);
    from += put;
    offset += put;
    left -= static_cast<size_t>(put);
  }
}

void ActivationFile::sync() const {
  if (::fdatasync(descriptor_) != 0) fail(path_, "written to the disk", errno);
}

}  // namespace qlora::exporter
