#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/io/test_files.h"

namespace qlora::io {

inline std::string gguf_text(const std::string& text) {
  return bytes_of(uint64_t{text.size()}) + text;
}

/// Makes GGUF files by hand, sound or not: every count and offset can be told to lie.
class GgufBuilder {
 public:
  GgufBuilder& value(const std::string& key, uint32_t type, const std::string& payload) {
    values_ += gguf_text(key) + bytes_of(type) + payload;
    ++value_count;
    return *this;
  }
  GgufBuilder& u32(const std::string& key, uint32_t number) {
    return value(key, 4, bytes_of(number));
  }
  GgufBuilder& f32(const std::string& key, float number) { return value(key, 6, bytes_of(number)); }
  GgufBuilder& text(const std::string& key, const std::string& text) {
    return value(key, 8, gguf_text(text));
  }
  GgufBuilder& array(const std::string& key, uint32_t type, uint64_t count,
                     const std::string& elements) {
    return value(key, 9, bytes_of(type) + bytes_of(count) + elements);
  }

  /// Appends a tensor; `dimensions` in file order, `data` its bytes.
  GgufBuilder& tensor(const std::string& name, const std::vector<uint64_t>& dimensions,
                      uint32_t type, const std::string& data) {
    data_.resize((data_.size() + alignment - 1) / alignment * alignment);
    return tensor_at(name, dimensions, type, data_.size(), data);
  }
  GgufBuilder& tensor_at(const std::string& name, const std::vector<uint64_t>& dimensions,
                         uint32_t type, uint64_t offset, const std::string& data = {}) {
    infos_ += gguf_text(name) + bytes_of(static_cast<uint32_t>(dimensions.size()));
    for (const uint64_t dimension : dimensions) infos_ += bytes_of(dimension);
    infos_ += bytes_of(type) + bytes_of(offset);
    data_ += data;
    ++tensor_count;
    return *this;
  }
  /// A tensor of floats that are all `fill`.
  GgufBuilder& floats(const std::string& name, const std::vector<uint64_t>& dimensions,
                      float fill = 0.5f) {
    uint64_t count = 1;
    for (const uint64_t dimension : dimensions) count *= dimension;
    std::string data;
    for (uint64_t i = 0; i < count; ++i) data += bytes_of(fill);
    return tensor(name, dimensions, 0, data);
  }

  std::string build() const {
    std::string file = magic + bytes_of(version) + bytes_of(tensor_count) + bytes_of(value_count) +
                       values_ + infos_;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data_;
  }

  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensor_count = 0, value_count = 0;
  size_t alignment = 32;

 private:
  std::string values_, infos_, data_;
};

}  // namespace qlora::io
