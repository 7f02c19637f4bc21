#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/dtype.h"
#include "io/mapped_file.h"

namespace qlora::io {

/// One tensor of a file; `bytes` point into memory that somebody else owns.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // row-major; {} is a scalar
  std::span<const std::byte> bytes;

  int64_t element_count() const { return static_cast<int64_t>(bytes.size()) / dtype_bytes(dtype); }
};

/// "[49152, 576]"
std::string shape_text(std::span<const int64_t> shape);

using Metadata = std::map<std::string, std::string>;

/// Tensors of one safetensors file or of a directory, memory-mapped.
///   Directory  model.safetensors.index.json with its shards, else model.safetensors, else
///              adapter_model.safetensors
///   Trust      none: header length, JSON depth, duplicate keys, types, products of shapes, order,
///              overlap, holes and the end of the data are checked before the first tensor is
///              handed out
///   Lifetime   TensorView::bytes are valid while the reader lives
class SafetensorsReader {
 public:
  /// throws IoError where a file is missing; FormatError where a file is not what it claims, or
  ///        where only a pickle (.bin, .pt, .pth, .ckpt) is there, which is never read
  explicit SafetensorsReader(const std::filesystem::path& path);

  const std::vector<TensorView>& tensors() const { return tensors_; }  // by rising name
  const TensorView* find(std::string_view name) const;                 // nullptr where absent
  const TensorView& at(std::string_view name) const;  // throws FormatError with the nearest name
  const Metadata& metadata() const { return metadata_; }  // of the first file
  const std::filesystem::path& path() const { return path_; }
  std::vector<std::filesystem::path> files() const;  // in order of the shards' names

  /// Tells the system that the tensor's pages are no longer needed: they leave the resident set.
  void release(const TensorView& tensor) const;

 private:
  void add_file(const std::filesystem::path& file);

  std::filesystem::path path_;
  std::vector<MappedFile> files_;
  std::vector<TensorView> tensors_;
  Metadata metadata_;
};

/// out[i] = float of element first + i of a float tensor.
///   throws    ValueError where the range leaves the tensor or the type is not a float type
void read_f32(const TensorView& tensor, int64_t first, int64_t count, float* out);

/// Writes one safetensors file, tensor by tensor, in the reference library's order and alignment.
/// The file appears under its name at commit(); without it nothing is left behind.
///   Example   SafetensorsWriter w(path, layout, metadata); for (…) w.write(name, bytes);
///   w.commit();
class SafetensorsWriter {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
  };

  /// throws ValueError for a name that is empty, doubled, not UTF-8 or "__metadata__", and for a
  ///        negative dimension; IoError where the file cannot be made
  SafetensorsWriter(const std::filesystem::path& path, std::vector<Entry> layout,
                    const Metadata& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;

  /// Writes all bytes of one tensor; any order, each once.
  ///   throws    ValueError for an unknown name, a second write or a wrong byte count
  void write(std::string_view name, std::span<const std::byte> bytes);

  /// throws ValueError naming a tensor that was not written; IoError (needed and free bytes)
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Writes all tensors at once; same promises as SafetensorsWriter.
void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const Metadata& metadata = {});

}  // namespace qlora::io
