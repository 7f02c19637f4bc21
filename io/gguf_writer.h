#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/ggml_type.h"
#include "io/gguf.h"

namespace qlora::io {

/// Key-value pairs of a GGUF file, encoded as they are added, in their order.
///   throws    ValueError where a key is empty, longer than 64 KiB - 1, not UTF-8, or stands
///   already
class GgufMetadata {
 public:
  void add(std::string_view key, uint32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::string> values);
  void add(std::string_view key, std::span<const int32_t> values);
  void add(std::string_view key, std::span<const float> values);
  /// A value of another file as it stands there, under its own key.
  void copy(const GgufValue& value);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }
  bool has(std::string_view key) const { return keys_.contains(key); }

 private:
  void begin(std::string_view key, GgufValueType type);

  std::string bytes_;
  std::set<std::string, std::less<>> keys_;
  uint64_t count_ = 0;
};

/// Writes one GGUF file of version 3: metadata, tensor infos, data aligned to 32 bytes. Tensors may
/// come in parts, so that none is held as a whole. The file appears at commit(), or not at all.
///   Example   GgufWriter w(path, metadata, layout); for (…) w.append(name, rows); w.commit();
class GgufWriter {
 public:
  struct Entry {
    std::string name;
    GgmlType type = GgmlType::kF32;
    std::vector<int64_t> shape;  // row-major: [N, K]; the file holds the reverse order
  };

  /// throws ValueError for a name that is empty, longer than 64 bytes, doubled or not UTF-8, a
  /// shape
  ///        of no or more than 4 dimensions, a dimension below 1, rows that split a block, and for
  ///        general.alignment among the metadata; IoError where the file cannot be made
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             const std::vector<Entry>& layout);
  ~GgufWriter();
  GgufWriter(GgufWriter&&) noexcept;
  GgufWriter& operator=(GgufWriter&&) noexcept;

  /// Writes the next bytes of a tensor.
  ///   throws    ValueError for an unknown name or more bytes than the tensor has
  void append(std::string_view name, std::span<const std::byte> bytes);

  /// throws ValueError naming a tensor that is not complete; IoError (needed and free bytes)
  void commit();

  uint64_t file_bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes of a tensor's data.
///   throws    ValueError as GgufWriter's constructor
uint64_t gguf_tensor_bytes(const GgufWriter::Entry& entry);

}  // namespace qlora::io
