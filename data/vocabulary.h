#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data {

/// Texts by number, and numbers by text. Append-only; ids may have holes.
class Vocabulary {
 public:
  void reserve(size_t count, size_t bytes);
  /// returns   false if the text or the id is taken
  bool add(std::string_view piece, int32_t id);
  std::optional<int32_t> find(std::string_view piece) const;
  std::string_view piece(int32_t id) const;  // empty for a hole
  bool has(int32_t id) const;
  int32_t size() const { return static_cast<int32_t>(places_.size()); }  // largest id + 1

 private:
  struct Place {
    uint64_t begin = 0;
    int64_t length = -1;  // -1: a hole
  };
  void grow();

  std::string text_;
  std::vector<Place> places_;   // by id
  std::vector<int32_t> table_;  // open addressing: id + 1, 0 is free; a power of two long
  size_t count_ = 0;
};

}  // namespace qlora::data
