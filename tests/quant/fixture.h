#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace qlora::testing {

inline std::filesystem::path bnb_folder() {
  return std::filesystem::path(QLORA_SOURCE_DIR) / "tests/fixtures/bnb";
}

/// One of the files in tests/fixtures/bnb, its tensors as vectors.
class BnbFixture {
 public:
  explicit BnbFixture(const std::string& name) : reader_(bnb_folder() / (name + ".safetensors")) {}

  bool has(const std::string& key) const { return reader_.find(key) != nullptr; }
  const io::TensorView& view(const std::string& key) const { return reader_.at(key); }

  template <class T>
  std::vector<T> get(const std::string& key) const {
    const io::TensorView& tensor = reader_.at(key);
    std::vector<T> values(tensor.bytes.size() / sizeof(T));
    std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
    return values;
  }

 private:
  io::SafetensorsReader reader_;
};

inline nlohmann::json bnb_json(const std::string& name) {
  std::ifstream file(bnb_folder() / (name + ".json"));
  return nlohmann::json::parse(file);
}

}  // namespace qlora::testing
