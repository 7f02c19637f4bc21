#include "data/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cassert>

#include "data/text_hash.h"

namespace qlora::data {

void Vocabulary::reserve(size_t count, size_t bytes) {
  text_.reserve(bytes);
  places_.reserve(count);
  if (table_.size() < 2 * count) {
    table_.resize(std::bit_ceil(2 * count + 16));
    grow();
  }
}

void Vocabulary::grow() {
  std::fill(table_.begin(), table_.end(), 0);
  for (int32_t id = 0; id < size(); ++id) {
    if (places_[id].length < 0) continue;
    size_t slot = hash_bytes(piece(id)) & (table_.size() - 1);
    while (table_[slot] != 0) slot = (slot + 1) & (table_.size() - 1);
    table_[slot] = id + 1;
  }
}

bool Vocabulary::add(std::string_view piece_text, int32_t id) {
  assert(id >= 0 && "callers check ids");
  if (2 * (count_ + 1) > table_.size()) {
    table_.resize(std::max<size_t>(64, 2 * table_.size()));
    grow();
  }
  if (has(id)) return false;
  size_t slot = hash_bytes(piece_text) & (table_.size() - 1);
  for (; table_[slot] != 0; slot = (slot + 1) & (table_.size() - 1)) {
    if (piece(table_[slot] - 1) == piece_text) return false;
  }
  table_[slot] = id + 1;
  if (static_cast<size_t>(id) >= places_.size()) places_.resize(static_cast<size_t>(id) + 1);
  places_[id] = {text_.size(), static_cast<int64_t>(piece_text.size())};
  text_.append(piece_text);
  ++count_;
  return true;
}

std::optional<int32_t> Vocabulary::find(std::string_view piece_text) const {
  if (table_.empty()) return std::nullopt;
  size_t slot = hash_bytes(piece_text) & (table_.size() - 1);
  for (; table_[slot] != 0; slot = (slot + 1) & (table_.size() - 1)) {
    if (piece(table_[slot] - 1) == piece_text) return table_[slot] - 1;
  }
  return std::nullopt;
}

bool Vocabulary::has(int32_t id) const {
  return id >= 0 && id < size() && places_[id].length >= 0;
}

std::string_view Vocabulary::piece(int32_t id) const {
  if (!has(id)) return {};
  return std::string_view(text_).substr(places_[id].begin, places_[id].length);
}

}  // namespace qlora::data
