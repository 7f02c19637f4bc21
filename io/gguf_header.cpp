#include "io/gguf_header.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "core/error.h"
#include "io/file_kind.h"
#include "io/foreign_text.h"

namespace qlora::io {
namespace {

constexpr uint64_t kMostElements = uint64_t{1} << 56;  // so that no byte count overflows
constexpr size_t kMostNameBytes = 1024;
constexpr int kMostNesting = 4;
constexpr uint64_t kMostAlignment = 1 << 20;

struct ValueTypeRow {
  const char* name;
  size_t bytes;
};
constexpr std::array<ValueTypeRow, 13> kValueTypes = {{{"U8", 1},
                                                       {"I8", 1},
                                                       {"U16", 2},
                                                       {"I16", 2},
                                                       {"U32", 4},
                                                       {"I32", 4},
                                                       {"F32", 4},
                                                       {"BOOL", 1},
                                                       {"STRING", 0},
                                                       {"ARRAY", 0},
                                                       {"U64", 8},
                                                       {"I64", 8},
                                                       {"F64", 8}}};

/// Reads forward through the mapped bytes and never beyond them.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string where)
      : bytes_(bytes), where_(std::move(where)) {}

  uint64_t position() const { return position_; }
  uint64_t left() const { return bytes_.size() - position_; }
  const std::string& where() const { return where_; }

  std::span<const std::byte> take(uint64_t count, const char* what) {
    QLORA_CHECK(
        count <= left(), FormatError,
        "[io] {}: {} at byte {} needs {} bytes, {} are left; the file is cut off or damaged",
        where_, what, position_, count, left());
    const auto part = bytes_.subspan(position_, count);
    position_ += count;
    return part;
  }

  template <class T>
  T number(const char* what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view text(const char* what) {
    const auto length = number<uint64_t>(what);
    const auto part = take(length, what);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

  std::string_view name(const char* what) {
    const std::string_view text = this->text(what);
    QLORA_CHECK(!text.empty() && text.size() <= kMostNameBytes, FormatError,
                "[io] {}: {} of {} bytes, 1 to {} are allowed", where_, what, text.size(),
                kMostNameBytes);
    return text;
  }

  GgufValueType value_type() {
    const auto id = number<uint32_t>("a value type");
    QLORA_CHECK(id < kValueTypes.size(), FormatError,
                "[io] {}: metadata value of unknown type {} at byte {}", where_, id, position_ - 4);
    return static_cast<GgufValueType>(id);
  }

 private:
  std::span<const std::byte> bytes_;
  std::string where_;
  uint64_t position_ = 0;
};

/// Walks over an array's elements. Each takes at least one byte, so the file's size bounds the
/// work.
void skip_elements(Cursor& cursor, GgufValueType type, uint64_t count, int depth) {
  if (const size_t size = gguf_type_bytes(type)) {
    QLORA_CHECK(
        count <= cursor.left() / size, FormatError,
        "[io] {}: array of {} {} at byte {}, {} bytes are left; the file is cut off or damaged",
        cursor.where(), count, gguf_type_name(type), cursor.position(), cursor.left());
    cursor.take(count * size, "an array");
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    if (type == GgufValueType::kString) {
      cursor.text("a text of an array");
      continue;
    }
    QLORA_CHECK(depth < kMostNesting, FormatError, "[io] {}: metadata arrays nest deeper than {}",
                cursor.where(), kMostNesting);
    const GgufValueType inner = cursor.value_type();
    skip_elements(cursor, inner, cursor.number<uint64_t>("an array length"), depth + 1);
  }
}

GgufValue parse_value(Cursor& cursor, std::span<const std::byte> file) {
  GgufValue value;
  value.key = cursor.name("a metadata key");
  value.type = cursor.value_type();
  value.element_type = value.type;
  if (value.type == GgufValueType::kString) {
    const std::string_view text = cursor.text("a metadata text");
    value.bytes = std::as_bytes(std::span(text));
  } else if (value.type == GgufValueType::kArray) {
    value.element_type = cursor.value_type();
    value.count = cursor.number<uint64_t>("an array length");
    const uint64_t begin = cursor.position();
    skip_elements(cursor, value.element_type, value.count, 1);
    value.bytes = file.subspan(begin, cursor.position() - begin);
  } else {
    value.bytes = cursor.take(gguf_type_bytes(value.type), "a metadata value");
  }
  return value;
}

/// Name, shape and type; `offset` receives where its data lie in the data section.
GgufTensor parse_tensor(Cursor& cursor, uint64_t* offset, uint64_t* bytes) {
  GgufTensor tensor;
  tensor.name = cursor.name("a tensor name");
  const std::string what = fmt::format("[io] {}: tensor {}", cursor.where(), quote(tensor.name));
  const auto dimensions = cursor.number<uint32_t>("a tensor's dimensions");
  QLORA_CHECK(dimensions >= 1 && dimensions <= 4, FormatError,
              "{} has {} dimensions, 1 to 4 are allowed", what, dimensions);
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto size = cursor.number<uint64_t>("a tensor's dimension");
    QLORA_CHECK(size >= 1 && size <= kMostElements / elements, FormatError,
                "{} has a dimension of {}: an empty tensor, or one larger than any file", what,
                size);
    elements *= size;
    tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
  }
  const auto id = cursor.number<uint32_t>("a tensor's type");
  const GgmlTypeInfo* info = find_ggml_type(id);
  QLORA_CHECK(info != nullptr, FormatError, "{} has the unknown type {}", what, id);
  QLORA_CHECK(tensor.columns() % info->block_elements == 0, FormatError,
              "{} of type {} has rows of {} elements, which are no whole blocks of {}", what,
              info->name, tensor.columns(), info->block_elements);
  tensor.type = info->type;
  *offset = cursor.number<uint64_t>("a tensor's offset");
  *bytes = elements / static_cast<uint64_t>(info->block_elements) *
           static_cast<uint64_t>(info->block_bytes);
  return tensor;
}

uint64_t read_alignment(const GgufHeader& header, const std::string& where) {
  const auto it = header.value_index.find("general.alignment");
  if (it == header.value_index.end()) return 32;
  const GgufValue& value = header.values[it->second];
  uint32_t alignment = 0;
  if (value.type == GgufValueType::kU32) std::memcpy(&alignment, value.bytes.data(), 4);
  QLORA_CHECK(
      std::has_single_bit(alignment) && alignment <= kMostAlignment, FormatError,
      "[io] {}: general.alignment is {} of type {}, a power of two up to {} as U32 is allowed",
      where, alignment, gguf_type_name(value.type), kMostAlignment);
  return alignment;
}

struct Extent {
  uint64_t offset = 0, bytes = 0;
};

/// Gives each tensor its bytes, after checking that they are aligned, inside the file, its own, and
/// leave no holes, as every writer lays them out and as llama.cpp asks for.
void place_tensors(std::vector<GgufTensor>& tensors, const std::vector<Extent>& extents,
                   std::span<const std::byte> data, uint64_t alignment, const std::string& where) {
  std::vector<size_t> order(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    order[i] = i;
    const auto [offset, bytes] = extents[i];
    const std::string name = quote(tensors[i].name);
    QLORA_CHECK(offset % alignment == 0, FormatError,
                "[io] {}: tensor {} has offset {}, no multiple of {}", where, name, offset,
                alignment);
    QLORA_CHECK(offset <= data.size() && bytes <= data.size() - offset, FormatError,
                "[io] {}: tensor {} takes {} bytes at offset {}, the file holds {} data bytes; it "
                "is cut off or damaged",
                where, name, bytes, offset, data.size());
    tensors[i].bytes = data.subspan(offset, bytes);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return extents[a].offset < extents[b].offset; });
  uint64_t end = 0;  // of the tensor before
  for (size_t i = 0; i < order.size(); ++i) {
    const auto [offset, bytes] = extents[order[i]];
    QLORA_CHECK(end <= offset, FormatError, "[io] {}: tensors {} and {} overlap", where,
                quote(tensors[order[i - 1]].name), quote(tensors[order[i]].name));
    const uint64_t expected = (end + alignment - 1) / alignment * alignment;
    QLORA_CHECK(offset == expected, FormatError,
                "[io] {}: tensor {} begins at offset {}, but the one before it ends so that {} is "
                "next; a type or a shape is not that of the bytes, convert the file anew",
                where, quote(tensors[order[i]].name), offset, expected);
    end = offset + bytes;
  }
}

/// Magic, version and the two counts.
void parse_front(Cursor& cursor, GgufHeader& header, uint64_t* tensor_count,
                 uint64_t* value_count) {
  const auto magic = cursor.take(4, "the magic number");
  QLORA_CHECK(std::memcmp(magic.data(), "GGUF", 4) == 0, FormatError,
              "[io] {}: does not start with GGUF; no GGUF file", cursor.where());
  header.version = cursor.number<uint32_t>("the version");
  QLORA_CHECK(header.version >> 16 == 0, FormatError,
              "[io] {}: a big-endian GGUF file, only little-endian ones are read", cursor.where());
  QLORA_CHECK(header.version == 2 || header.version == 3, FormatError,
              "[io] {}: the GGUF version is {}, allowed 2 or 3; convert the file anew",
              cursor.where(), header.version);
  *tensor_count = cursor.number<uint64_t>("the tensor count");
  *value_count = cursor.number<uint64_t>("the metadata count");
}

}  // namespace

size_t gguf_type_bytes(GgufValueType type) {
  return kValueTypes[static_cast<size_t>(type)].bytes;
}

std::string gguf_type_name(GgufValueType type) {
  return kValueTypes[static_cast<size_t>(type)].name;
}

GgufHeader parse_gguf(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  refuse_placeholder({reinterpret_cast<const char*>(bytes.data()), bytes.size()},
                     "[io] " + file.path().string());
  Cursor cursor(bytes, file.path().string());
  GgufHeader header;
  uint64_t tensor_count = 0, value_count = 0;
  parse_front(cursor, header, &tensor_count, &value_count);
  // No count sets an allocation: the vectors grow as the file proves to hold the entries.
  for (uint64_t i = 0; i < value_count; ++i) {
    header.values.push_back(parse_value(cursor, file.bytes()));
    const std::string_view key = header.values.back().key;
    QLORA_CHECK(header.value_index.emplace(key, i).second, FormatError,
                "[io] {}: metadata key {} stands twice", cursor.where(), quote(key));
  }
  std::vector<Extent> extents;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    Extent extent;
    header.tensors.push_back(parse_tensor(cursor, &extent.offset, &extent.bytes));
    extents.push_back(extent);
    const std::string_view name = header.tensors.back().name;
    QLORA_CHECK(header.tensor_index.emplace(name, i).second, FormatError,
                "[io] {}: tensor {} stands twice", cursor.where(), quote(name));
  }
  const uint64_t alignment = read_alignment(header, cursor.where());
  const uint64_t begin = (cursor.position() + alignment - 1) / alignment * alignment;
  const auto data =
      begin < file.bytes().size() ? file.bytes().subspan(begin) : std::span<const std::byte>();
  place_tensors(header.tensors, extents, data, alignment, cursor.where());
  return header;
}

}  // namespace qlora::io
