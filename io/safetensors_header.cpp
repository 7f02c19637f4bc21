#include "io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/file_kind.h"
#include "io/foreign_text.h"
#include "io/strict_json.h"

namespace qlora::io {
namespace {

constexpr uint64_t kMostBytes = uint64_t{1} << 62;
constexpr size_t kMostDimensions = 64;
constexpr uint64_t kIndexLimitBytes = 256 << 20;

/// The header's JSON: after 8 bytes with its length, before the data.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& where) {
  refuse_placeholder({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, "[io] " + where);
  QLORA_CHECK(bytes.size() >= 8, FormatError, "[io] {}: {} bytes, too short for a safetensors file",
              where, bytes.size());
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  QLORA_CHECK(length <= kSafetensorsHeaderLimitBytes, FormatError,
              "[io] {}: header of {} bytes, at most {} are allowed; no safetensors file?", where,
              length, kSafetensorsHeaderLimitBytes);
  QLORA_CHECK(
      length <= bytes.size() - 8, FormatError,
      "[io] {}: header of {} bytes in a file of {}; the file is cut off or no safetensors file",
      where, length, bytes.size());
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
  QLORA_CHECK(text.starts_with('{'), FormatError, "[io] {}: the header does not start with '{{'",
              where);
  return text;
}

uint64_t unsigned_number(const nlohmann::json& value, const std::string& what) {
  QLORA_CHECK(value.is_number_unsigned(), FormatError, "{} is {}, not a whole number from 0 up",
              what, quote(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
  return value.get<uint64_t>();
}

uint64_t multiply(uint64_t a, uint64_t b, const std::string& what) {
  QLORA_CHECK(b == 0 || a <= kMostBytes / b, FormatError, "{} is larger than any file", what);
  return a * b;
}

const nlohmann::json& member(const nlohmann::json& object, const char* key,
                             const std::string& what) {
  QLORA_CHECK(object.contains(key), FormatError, "{} has no {}", what, key);
  return object[key];
}

TensorView parse_tensor(const std::string& name, const nlohmann::json& entry,
                        std::span<const std::byte> data, const std::string& where) {
  const std::string what = fmt::format("[io] {}: tensor {}", where, quote(name));
  QLORA_CHECK(entry.is_object() && entry.size() == 3, FormatError,
              "{} is not described by dtype, shape and data_offsets alone", what);
  const auto& dtype = member(entry, "dtype", what);
  QLORA_CHECK(dtype.is_string(), FormatError, "{} has a dtype that is no text", what);
  TensorView tensor;
  tensor.name = name;
  tensor.dtype = dtype_from_name(dtype.get_ref<const std::string&>(),
                                 fmt::format("{}: {}", where, quote(name)));

  const auto& shape = member(entry, "shape", what);
  QLORA_CHECK(shape.is_array() && shape.size() <= kMostDimensions, FormatError,
              "{} has a shape that is no list of at most {} numbers", what, kMostDimensions);
  uint64_t bytes = static_cast<uint64_t>(dtype_bytes(tensor.dtype));
  bool empty = false;
  for (const auto& dimension : shape) {
    const uint64_t size = unsigned_number(dimension, what + ": dimension");
    QLORA_CHECK(size <= kMostBytes, FormatError, "{} is larger than any file", what);
    empty = empty || size == 0;
    if (size != 0) bytes = multiply(bytes, size, what);  // an overflow counts even beside a zero
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  if (empty) bytes = 0;

  const auto& offsets = member(entry, "data_offsets", what);
  QLORA_CHECK(offsets.is_array() && offsets.size() == 2, FormatError,
              "{} has data_offsets that are no pair", what);
  const uint64_t begin = unsigned_number(offsets[0], what + ": offset");
  const uint64_t end = unsigned_number(offsets[1], what + ": offset");
  QLORA_CHECK(
      begin <= end && end <= data.size(), FormatError,
      "{} has data_offsets [{}, {}], outside the {} data bytes; the file is cut off or damaged",
      what, begin, end, data.size());
  QLORA_CHECK(end - begin == bytes, FormatError,
              "{} of type {} and shape {} needs {} bytes, data_offsets give {}", what,
              dtype_name(tensor.dtype), shape_text(tensor.shape), bytes, end - begin);
  tensor.bytes = data.subspan(begin, bytes);
  return tensor;
}

void parse_metadata(const nlohmann::json& object, const std::string& where, Metadata& metadata) {
  QLORA_CHECK(object.is_object(), FormatError, "[io] {}: __metadata__ is no object", where);
  for (const auto& [key, value] : object.items()) {
    QLORA_CHECK(value.is_string(), FormatError, "[io] {}: __metadata__ {} is no text", where,
                quote(key));
    metadata[key] = value.get<std::string>();
  }
}

/// Tensors lie one after another, from the first data byte to the last.
void check_coverage(const std::vector<TensorView>& tensors, std::span<const std::byte> data,
                    const std::string& where) {
  const std::byte* next = data.data();
  for (const TensorView& tensor : tensors) {
    QLORA_CHECK(tensor.bytes.data() == next, FormatError,
                "[io] {}: tensor {} starts at data byte {}, the one before it ends at {}: {}",
                where, quote(tensor.name), tensor.bytes.data() - data.data(), next - data.data(),
                tensor.bytes.data() < next ? "they overlap" : "a hole");
    next += tensor.bytes.size();
  }
  QLORA_CHECK(next == data.data() + data.size(), FormatError,
              "[io] {}: the tensors end at data byte {} of {}: bytes that nothing describes", where,
              next - data.data(), data.size());
}

}  // namespace

void parse_safetensors(const MappedFile& file, std::vector<TensorView>& tensors,
                       Metadata& metadata) {
  const std::string where = file.path().string();
  const std::string_view text = header_text(file.bytes(), where);
  const auto header = parse_strict_json(text, where, 4);
  const auto data = file.bytes().subspan(8 + text.size());
  const size_t first = tensors.size();
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      parse_metadata(entry, where, metadata);
    } else {
      tensors.push_back(parse_tensor(name, entry, data, where));
    }
  }
  const auto added = std::span(tensors).subspan(first);
  std::sort(added.begin(), added.end(), [](const TensorView& a, const TensorView& b) {
    return a.bytes.data() != b.bytes.data() ? a.bytes.data() < b.bytes.data()
                                            : a.bytes.size() < b.bytes.size();
  });
  check_coverage({added.begin(), added.end()}, data, where);
}

uint64_t tensor_bytes(const SafetensorsWriter::Entry& entry) {
  uint64_t bytes = static_cast<uint64_t>(dtype_bytes(entry.dtype));
  for (const int64_t dimension : entry.shape) {
    QLORA_CHECK(dimension >= 0, ValueError,
                "[io] tensor {} to be written has shape {}, with a negative dimension",
                quote(entry.name), shape_text(entry.shape));
    const auto size = static_cast<uint64_t>(dimension);
    QLORA_CHECK(size == 0 || bytes <= kMostBytes / size, ValueError,
                "[io] tensor {} to be written has shape {}, larger than any file",
                quote(entry.name), shape_text(entry.shape));
    bytes *= size;
  }
  return bytes;
}

std::string safetensors_header(const std::vector<SafetensorsWriter::Entry>& layout,
                               const Metadata& metadata) {
  const auto text = [](const std::string& value) { return nlohmann::json(value).dump(); };
  std::string json = "{";
  const auto separate = [&] { json += json.size() > 1 ? "," : ""; };
  if (!metadata.empty()) json += "\"__metadata__\":" + nlohmann::json(metadata).dump();
  uint64_t offset = 0;
  for (const auto& entry : layout) {
    separate();
    const uint64_t end = offset + tensor_bytes(entry);
    json += fmt::format("{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                        text(entry.name), dtype_name(entry.dtype), fmt::join(entry.shape, ","),
                        offset, end);
    offset = end;
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string header(8, '\0');
  const uint64_t length = json.size();
  std::memcpy(header.data(), &length, 8);
  return header + json;
}

ShardIndex read_shard_index(const std::filesystem::path& index_json) {
  const std::string where = index_json.string();
  const auto json = parse_strict_json(read_file(index_json, kIndexLimitBytes), where);
  QLORA_CHECK(json.is_object() && json.contains("weight_map") && json["weight_map"].is_object(),
              FormatError, "[io] {}: no object weight_map", where);
  ShardIndex index;
  std::set<std::string> shards;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    QLORA_CHECK(shard.is_string(), FormatError, "[io] {}: weight_map of {} is no file name", where,
                quote(name));
    const std::string file = shard.get<std::string>();
    QLORA_CHECK(!file.empty() && file == std::filesystem::path(file).filename().string() &&
                    file != "." && file != ".." && file.find('\0') == std::string::npos,
                FormatError,
                "[io] {}: weight_map of {} names {}, which is no file beside the index", where,
                quote(name), quote(file));
    index.file_of[name] = file;
    shards.insert(file);
  }
  for (const std::string& shard : shards) index.files.push_back(index_json.parent_path() / shard);
  return index;
}

}  // namespace qlora::io
