#include "io/gguf.h"

#include <cstring>

#include "core/error.h"
#include "io/float_convert.h"
#include "io/foreign_text.h"
#include "io/gguf_dequant.h"
#include "io/gguf_header.h"

namespace qlora::io {
namespace {

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

/// A number of any integer type; nothing for other types and for values above int64_t.
std::optional<int64_t> integer_at(GgufValueType type, const std::byte* data) {
  switch (type) {
    case GgufValueType::kU8:
      return load<uint8_t>(data);
    case GgufValueType::kI8:
      return load<int8_t>(data);
    case GgufValueType::kU16:
      return load<uint16_t>(data);
    case GgufValueType::kI16:
      return load<int16_t>(data);
    case GgufValueType::kU32:
      return load<uint32_t>(data);
    case GgufValueType::kI32:
      return load<int32_t>(data);
    case GgufValueType::kI64:
      return load<int64_t>(data);
    case GgufValueType::kU64: {
      const auto value = load<uint64_t>(data);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> number_at(GgufValueType type, const std::byte* data) {
  if (type == GgufValueType::kF32) return load<float>(data);
  if (type == GgufValueType::kF64) return load<double>(data);
  if (const auto value = integer_at(type, data)) return static_cast<double>(*value);
  return std::nullopt;
}

}  // namespace

int64_t GgufTensor::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

GgufReader::GgufReader(const std::filesystem::path& path) : file_(path) {
  GgufHeader header = parse_gguf(file_);
  version_ = header.version;
  values_ = std::move(header.values);
  tensors_ = std::move(header.tensors);
  value_index_ = std::move(header.value_index);
  tensor_index_ = std::move(header.tensor_index);
}

const GgufTensor* GgufReader::find_tensor(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufValue* GgufReader::find(std::string_view key) const {
  const auto it = value_index_.find(key);
  return it == value_index_.end() ? nullptr : &values_[it->second];
}

const GgufValue& GgufReader::require(std::string_view key) const {
  const GgufValue* value = find(key);
  QLORA_CHECK(value != nullptr, FormatError, "[io] {}: metadata key {} is missing", path().string(),
              quote(key));
  return *value;
}

void GgufReader::fail_type(const GgufValue& value, std::string_view wanted) const {
  const bool array = value.type == GgufValueType::kArray;
  throw FormatError(fmt::format("[io] {}: metadata key {} is {}{}, not {}", path().string(),
                                quote(value.key), array ? "an array of " : "",
                                gguf_type_name(array ? value.element_type : value.type), wanted));
}

std::optional<int64_t> GgufReader::find_integer(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto number = integer_at(value->type, value->bytes.data());
  if (!number) fail_type(*value, "an integer of 64 bits");
  return number;
}

std::optional<double> GgufReader::find_number(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto number = number_at(value->type, value->bytes.data());
  if (!number) fail_type(*value, "a number");
  return number;
}

std::optional<bool> GgufReader::find_boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufValueType::kBool) fail_type(*value, "a boolean");
  return value->bytes[0] != std::byte{0};
}

std::optional<std::string_view> GgufReader::find_string(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type != GgufValueType::kString) fail_type(*value, "a text");
  return std::string_view(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
}

int64_t GgufReader::integer(std::string_view key) const {
  return require(key), *find_integer(key);
}
double GgufReader::number(std::string_view key) const {
  return require(key), *find_number(key);
}
bool GgufReader::boolean(std::string_view key) const {
  return require(key), *find_boolean(key);
}
std::string_view GgufReader::string(std::string_view key) const {
  return require(key), *find_string(key);
}

std::vector<std::string_view> GgufReader::strings(std::string_view key) const {
  const GgufValue& value = require(key);
  if (value.type != GgufValueType::kArray || value.element_type != GgufValueType::kString) {
    fail_type(value, "an array of texts");
  }
  std::vector<std::string_view> texts;
  texts.reserve(value.count);  // the reader has walked over as many texts in the file
  const std::byte* next = value.bytes.data();
  for (uint64_t i = 0; i < value.count; ++i) {
    const auto length = load<uint64_t>(next);
    texts.emplace_back(reinterpret_cast<const char*>(next + 8), length);
    next += 8 + length;
  }
  return texts;
}

std::vector<int64_t> GgufReader::integers(std::string_view key) const {
  const GgufValue& value = require(key);
  const size_t size = gguf_type_bytes(value.element_type);
  std::vector<int64_t> numbers;
  if (value.type != GgufValueType::kArray || size == 0) fail_type(value, "an array of integers");
  numbers.reserve(value.count);
  for (uint64_t i = 0; i < value.count; ++i) {
    const auto number = integer_at(value.element_type, value.bytes.data() + i * size);
    if (!number) fail_type(value, "an array of integers of 64 bits");
    numbers.push_back(*number);
  }
  return numbers;
}

std::vector<float> GgufReader::numbers(std::string_view key) const {
  const GgufValue& value = require(key);
  const size_t size = gguf_type_bytes(value.element_type);
  std::vector<float> numbers;
  if (value.type != GgufValueType::kArray || size == 0) fail_type(value, "an array of numbers");
  numbers.reserve(value.count);
  for (uint64_t i = 0; i < value.count; ++i) {
    const auto number = number_at(value.element_type, value.bytes.data() + i * size);
    if (!number) fail_type(value, "an array of numbers");
    numbers.push_back(static_cast<float>(*number));
  }
  return numbers;
}

void GgufReader::read_f32_rows(const GgufTensor& tensor, int64_t row_begin, int64_t row_count,
                               float* out) const {
  const int64_t rows = tensor.rows(), columns = tensor.columns();
  QLORA_CHECK(
      row_begin >= 0 && row_count >= 0 && row_begin <= rows && row_count <= rows - row_begin,
      ValueError, "[io] {}: tensor {}: {} rows from row {} on asked for; it has {}",
      path().string(), quote(tensor.name), row_count, row_begin, rows);
  const GgmlTypeInfo& info = ggml_type_info(tensor.type);
  QLORA_CHECK(info.can_dequantize, FormatError,
              "[io] {}: tensor {} has type {}, which is not read; quantize to {}", path().string(),
              quote(tensor.name), info.name, "Q8_0, Q6_K, Q5_K, Q4_K or a float type instead");
  const int64_t row_bytes = columns / info.block_elements * info.block_bytes;
  dequantize_ggml(tensor.type, tensor.bytes.data() + row_begin * row_bytes, row_count * columns,
                  out);
}

}  // namespace qlora::io
