#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/ggml_type.h"
#include "io/mapped_file.h"

namespace qlora::io {

/// Types of GGUF metadata values. On disk: do not renumber.
enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

/// One metadata value, checked but not copied: the numbers and texts stay in the mapped file.
struct GgufValue {
  std::string_view key;
  GgufValueType type = GgufValueType::kU32;
  GgufValueType element_type = GgufValueType::kU32;  // of an array
  uint64_t count = 1;                                // elements of an array
  std::span<const std::byte> bytes;                  // payload: the number, the text, the elements
};

struct GgufTensor {
  std::string_view name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;        // row-major, the reverse of the order in the file: [N, K]
  std::span<const std::byte> bytes;  // exactly the size that type and shape ask for

  int64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  int64_t rows() const;  // product of all dimensions but the last
};

/// A GGUF file of version 2 or 3, little-endian, memory-mapped.
///   Trust      none: counts, lengths, nesting, types, shapes, offsets, alignment, overlap and the
///   end
///              of the file are checked before the constructor returns; the header sets no
///              allocation
///   Lifetime   views and spans are valid while the reader lives
class GgufReader {
 public:
  /// throws IoError where the file cannot be read, FormatError where it is not a sound GGUF file
  explicit GgufReader(const std::filesystem::path& path);

  uint32_t version() const { return version_; }
  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in file order
  const GgufTensor* find_tensor(std::string_view name) const;          // nullptr where absent
  const std::vector<GgufValue>& values() const { return values_; }     // in file order

  /// Value of a key; nothing where it is absent. The others throw FormatError where the key is
  /// absent, and all throw FormatError where the value's type does not fit (any integer type fits
  /// integer, any number fits number).
  const GgufValue* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  std::optional<int64_t> find_integer(std::string_view key) const;
  std::optional<double> find_number(std::string_view key) const;
  std::optional<bool> find_boolean(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  int64_t integer(std::string_view key) const;
  double number(std::string_view key) const;
  bool boolean(std::string_view key) const;
  std::string_view string(std::string_view key) const;

  /// Arrays. Strings are views into the file: a vocabulary costs 16 bytes a token.
  std::vector<std::string_view> strings(std::string_view key) const;
  std::vector<int64_t> integers(std::string_view key) const;
  std::vector<float> numbers(std::string_view key) const;

  /// out = rows [row_begin, row_begin + row_count) of a tensor as float, in the file's row order.
  ///   throws    ValueError where the rows leave the tensor; FormatError naming a type that is not
  ///   read
  void read_f32_rows(const GgufTensor& tensor, int64_t row_begin, int64_t row_count,
                     float* out) const;

  /// Tells the system that the tensor's pages are no longer needed.
  void release(const GgufTensor& tensor) const { file_.release(tensor.bytes); }

 private:
  const GgufValue& require(std::string_view key) const;
  [[noreturn]] void fail_type(const GgufValue& value, std::string_view wanted) const;

  MappedFile file_;
  uint32_t version_ = 0;
  std::vector<GgufValue> values_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> value_index_, tensor_index_;
};

}  // namespace qlora::io
