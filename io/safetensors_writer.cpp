#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/safetensors.h"
#include "io/safetensors_header.h"

namespace qlora::io {

struct SafetensorsWriter::State {
  struct Slot {
    uint64_t offset = 0;
    uint64_t bytes = 0;
    bool written = false;
  };
  AtomicFile file;
  std::map<std::string, Slot, std::less<>> slots;
  std::string path;
};

namespace {

void check_text(const std::string& text, const std::string& what) {
  QLORA_CHECK(is_utf8(text), ValueError, "[io] {} {} is not UTF-8", what, quote(text));
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, std::vector<Entry> layout,
                                     const Metadata& metadata) {
  std::sort(layout.begin(), layout.end(), [](const Entry& a, const Entry& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  for (const auto& [key, value] : metadata) {
    check_text(key, "metadata key");
    check_text(value, "metadata value");
  }
  std::map<std::string, State::Slot, std::less<>> slots;
  uint64_t end = 0;
  for (const Entry& entry : layout) {
    QLORA_CHECK(!entry.name.empty() && entry.name != "__metadata__", ValueError,
                "[io] tensor name {} is reserved; choose another", quote(entry.name));
    check_text(entry.name, "tensor name");
    const uint64_t bytes = tensor_bytes(entry);
    QLORA_CHECK(slots.emplace(entry.name, State::Slot{end, bytes, false}).second, ValueError,
                "[io] tensor {} stands twice in what is to be written", quote(entry.name));
    end += bytes;
  }
  const std::string header = safetensors_header(layout, metadata);
  for (auto& [name, slot] : slots) slot.offset += header.size();
  state_.reset(new State{AtomicFile(path), std::move(slots), path.string()});
  state_->file.reserve(header.size() + end);
  state_->file.write_at(0, std::as_bytes(std::span(header)));
}

SafetensorsWriter::~SafetensorsWriter() = default;
SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&&) noexcept = default;
SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&&) noexcept = default;

void SafetensorsWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const auto slot = state_->slots.find(name);
  QLORA_CHECK(slot != state_->slots.end(), ValueError, "[io] {}: tensor {} is not in the layout",
              state_->path, quote(name));
  QLORA_CHECK(!slot->second.written, ValueError, "[io] {}: tensor {} is written twice",
              state_->path, quote(name));
  QLORA_CHECK(slot->second.bytes == bytes.size(), ValueError,
              "[io] {}: tensor {} takes {} bytes, {} are given", state_->path, quote(name),
              slot->second.bytes, bytes.size());
  state_->file.write_at(slot->second.offset, bytes);
  slot->second.written = true;
}

void SafetensorsWriter::commit() {
  for (const auto& [name, slot] : state_->slots) {
    QLORA_CHECK(slot.written || slot.bytes == 0, ValueError, "[io] {}: tensor {} was not written",
                state_->path, quote(name));
  }
  state_->file.commit();
}

void write_safetensors(const std::filesystem::path& path, std::span<const TensorView> tensors,
                       const Metadata& metadata) {
  std::vector<SafetensorsWriter::Entry> layout;
  for (const TensorView& tensor : tensors)
    layout.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(path, std::move(layout), metadata);
  for (const TensorView& tensor : tensors) writer.write(tensor.name, tensor.bytes);
  writer.commit();
}

}  // namespace qlora::io
