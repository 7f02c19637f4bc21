#include "io/gguf_writer.h"

#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/safetensors.h"

namespace qlora::io {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

constexpr uint64_t kAlignment = 32;
constexpr uint32_t kVersion = 3;
constexpr size_t kMostKeyBytes = 65535;  // of the specification
constexpr size_t kMostNameBytes = 64;    // GGML_MAX_NAME
constexpr uint64_t kMostBytes = uint64_t{1} << 62;

template <class T>
void put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<uint64_t>(text.size()));
  out += text;
}

void put_array(std::string& out, GgufValueType type, size_t count) {
  put(out, static_cast<uint32_t>(type));
  put(out, static_cast<uint64_t>(count));
}

uint64_t aligned(uint64_t offset) {
  return (offset + kAlignment - 1) / kAlignment * kAlignment;
}

void check_name(const GgufWriter::Entry& entry) {
  QLORA_CHECK(!entry.name.empty() && entry.name.size() <= kMostNameBytes && is_utf8(entry.name),
              ValueError, "[io] the tensor name {} has {} bytes, allowed: UTF-8 of 1 to {} bytes",
              quote(entry.name), entry.name.size(), kMostNameBytes);
}

}  // namespace

void GgufMetadata::begin(std::string_view key, GgufValueType type) {
  QLORA_CHECK(!key.empty() && key.size() <= kMostKeyBytes && is_utf8(key), ValueError,
              "[io] the metadata key {} has {} bytes, allowed: UTF-8 of 1 to {} bytes", quote(key),
              key.size(), kMostKeyBytes);
  QLORA_CHECK(keys_.emplace(key).second, ValueError,
              "[io] the metadata key {} stands twice in what is to be written", quote(key));
  put_text(bytes_, key);
  put(bytes_, static_cast<uint32_t>(type));
  ++count_;
}

void GgufMetadata::add(std::string_view key, uint32_t value) {
  begin(key, GgufValueType::kU32);
  put(bytes_, value);
}

void GgufMetadata::add(std::string_view key, float value) {
  begin(key, GgufValueType::kF32);
  put(bytes_, value);
}

void GgufMetadata::add(std::string_view key, bool value) {
  begin(key, GgufValueType::kBool);
  put(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::add(std::string_view key, std::string_view value) {
  begin(key, GgufValueType::kString);
  put_text(bytes_, value);
}

void GgufMetadata::add(std::string_view key, std::span<const std::string> values) {
  begin(key, GgufValueType::kArray);
  put_array(bytes_, GgufValueType::kString, values.size());
  for (const std::string& value : values) put_text(bytes_, value);
}

void GgufMetadata::add(std::string_view key, std::span<const int32_t> values) {
  begin(key, GgufValueType::kArray);
  put_array(bytes_, GgufValueType::kI32, values.size());
  for (const int32_t value : values) put(bytes_, value);
}

void GgufMetadata::add(std::string_view key, std::span<const float> values) {
  begin(key, GgufValueType::kArray);
  put_array(bytes_, GgufValueType::kF32, values.size());
  for (const float value : values) put(bytes_, value);
}

void GgufMetadata::copy(const GgufValue& value) {
  begin(value.key, value.type);
  if (value.type == GgufValueType::kArray) put_array(bytes_, value.element_type, value.count);
  if (value.type == GgufValueType::kString) put(bytes_, static_cast<uint64_t>(value.bytes.size()));
  bytes_.append(reinterpret_cast<const char*>(value.bytes.data()), value.bytes.size());
}

uint64_t gguf_tensor_bytes(const GgufWriter::Entry& entry) {
  check_name(entry);
  QLORA_CHECK(!entry.shape.empty() && entry.shape.size() <= 4, ValueError,
              "[io] tensor {} has {} dimensions, 1 to 4 are allowed", quote(entry.name),
              entry.shape.size());
  const GgmlTypeInfo& info = ggml_type_info(entry.type);
  uint64_t elements = 1;
  for (const int64_t size : entry.shape) {
    QLORA_CHECK(size >= 1 && static_cast<uint64_t>(size) <= kMostBytes / 256 / elements, ValueError,
                "[io] tensor {} has the shape {}: an empty tensor, or one larger than any file",
                quote(entry.name), shape_text(entry.shape));
    elements *= static_cast<uint64_t>(size);
  }
  QLORA_CHECK(entry.shape.back() % info.block_elements == 0, ValueError,
              "[io] tensor {} of type {} has rows of {} elements, which are no whole blocks of {}",
              quote(entry.name), info.name, entry.shape.back(), info.block_elements);
  return elements / static_cast<uint64_t>(info.block_elements) *
         static_cast<uint64_t>(info.block_bytes);
}

struct GgufWriter::State {
  struct Slot {
    uint64_t offset = 0, bytes = 0, written = 0;
  };
  AtomicFile file;
  std::map<std::string, Slot, std::less<>> slots;
  std::string path;
  uint64_t file_bytes = 0;
};

GgufWriter::GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
                       const std::vector<Entry>& layout) {
  QLORA_CHECK(!metadata.has("general.alignment"), ValueError,
              "[io] general.alignment is among the metadata, but the writer aligns to {}; leave it "
              "out",
              kAlignment);
  std::string header("GGUF");
  put(header, kVersion);
  put(header, static_cast<uint64_t>(layout.size()));
  put(header, metadata.count());
  header += metadata.bytes();
  std::map<std::string, State::Slot, std::less<>> slots;
  uint64_t end = 0;
  for (const Entry& entry : layout) {
    const uint64_t bytes = gguf_tensor_bytes(entry);
    QLORA_CHECK(slots.emplace(entry.name, State::Slot{end, bytes, 0}).second, ValueError,
                "[io] tensor {} stands twice in what is to be written", quote(entry.name));
    put_text(header, entry.name);
    put(header, static_cast<uint32_t>(entry.shape.size()));
    for (size_t i = entry.shape.size(); i-- > 0;)
      put(header, static_cast<uint64_t>(entry.shape[i]));
    put(header, static_cast<uint32_t>(entry.type));
    put(header, end);
    end = aligned(end + bytes);
  }
  header.resize(aligned(header.size()), '\0');
  for (auto& [name, slot] : slots) slot.offset += header.size();
  state_.reset(new State{AtomicFile(path), std::move(slots), path.string(), header.size() + end});
  state_->file.reserve(state_->file_bytes);
  state_->file.write_at(0, std::as_bytes(std::span(header)));
}

GgufWriter::~GgufWriter() = default;
GgufWriter::GgufWriter(GgufWriter&&) noexcept = default;
GgufWriter& GgufWriter::operator=(GgufWriter&&) noexcept = default;

void GgufWriter::append(std::string_view name, std::span<const std::byte> bytes) {
  const auto found = state_->slots.find(name);
  QLORA_CHECK(found != state_->slots.end(), ValueError, "[io] {}: tensor {} is not in the layout",
              state_->path, quote(name));
  State::Slot& slot = found->second;
  QLORA_CHECK(bytes.size() <= slot.bytes - slot.written, ValueError,
              "[io] {}: tensor {} takes {} bytes, {} are given", state_->path, quote(name),
              slot.bytes, slot.written + bytes.size());
  state_->file.write_at(slot.offset + slot.written, bytes);
  slot.written += bytes.size();
  // The gap before the next tensor is zeros, whatever the file system hands out.
  const uint64_t gap = aligned(slot.bytes) - slot.bytes;
  constexpr std::byte kZeros[kAlignment] = {};
  if (slot.written == slot.bytes && gap > 0) {
    state_->file.write_at(slot.offset + slot.bytes, std::span(kZeros).first(gap));
  }
}

void GgufWriter::commit() {
  for (const auto& [name, slot] : state_->slots) {
    QLORA_CHECK(slot.written == slot.bytes, ValueError,
                "[io] {}: {} of {} bytes of tensor {} were written", state_->path, slot.written,
                slot.bytes, quote(name));
  }
  state_->file.commit();
}

uint64_t GgufWriter::file_bytes() const {
  return state_->file_bytes;
}

}  // namespace qlora::io
