#include "data/bpe.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <queue>

#include "data/utf8.h"

namespace qlora::data {
namespace {

/// Mixes eight bytes at a time (the multiply-fold of wyhash): short keys, no adversary.
uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

uint64_t hash_bytes(std::string_view text) {
  uint64_t hash = 0x9E3779B97F4A7C15u ^ text.size();
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    hash = mix(hash ^ word, 0xD6E8FEB86659FD93u);
  }
  if (at < text.size()) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, text.size() - at);
    hash = mix(hash ^ word, 0xA0761D6478BD642Fu);
  }
  return hash ^ hash >> 32;
}

uint64_t pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

size_t pair_slot(uint64_t key) {
  const uint64_t hash = mix(key ^ 0x9E3779B97F4A7C15u, 0xD6E8FEB86659FD93u);
  return hash ^ hash >> 32;
}

struct ByteAlphabet {
  std::array<char32_t, 256> characters{};
  std::array<int16_t, 0x144> bytes{};  // by character; -1: none

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;  // bytes that do not print get the characters from U+0100 on
    for (int b = 0; b < 256; ++b) {
      const bool prints = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      characters[b] = prints ? static_cast<char32_t>(b) : next++;
      bytes[characters[b]] = static_cast<int16_t>(b);
    }
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

char32_t byte_level_character(uint8_t byte) {
  return byte_alphabet().characters[byte];
}

std::optional<uint8_t> byte_level_byte(char32_t character) {
  const auto& bytes = byte_alphabet().bytes;
  if (character >= bytes.size() || bytes[character] < 0) return std::nullopt;
  return static_cast<uint8_t>(bytes[character]);
}

// Vocabulary

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

// Bpe

/// The symbols of a word while they are merged, and the cache of short words.
class Bpe::Encoder {
 public:
  explicit Encoder(const Bpe& bpe) : bpe_(bpe), cache_(kCacheSlots) {}

  void encode(std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > sizeof(Slot::key)) return encode_uncached(word, ids);
    const uint64_t hash = hash_bytes(word);
    Slot& slot = cache_[hash & (kCacheSlots - 1)];
    if (slot.hash == hash && slot.key_bytes == word.size() &&
        std::memcmp(slot.key, word.data(), word.size()) == 0) {
      ids.insert(ids.end(), slot.ids, slot.ids + slot.id_count);
      return;
    }
    const size_t before = ids.size();
    encode_uncached(word, ids);
    const size_t count = ids.size() - before;
    if (count > std::size(slot.ids)) return;
    slot.hash = hash;
    slot.key_bytes = static_cast<uint8_t>(word.size());
    slot.id_count = static_cast<uint8_t>(count);
    std::memcpy(slot.key, word.data(), word.size());
    std::copy(ids.begin() + static_cast<int64_t>(before), ids.end(), slot.ids);
  }

 private:
  static constexpr size_t kCacheSlots = size_t{1} << 15;
  static constexpr size_t kShortWord = 40;  // symbols; longer words are merged through a heap
  struct Slot {                             // one cache line
    uint64_t hash = 0;
    uint8_t key_bytes = 255;  // 255: never filled
    uint8_t id_count = 0;
    char key[22];
    int32_t ids[8];
  };
  static_assert(sizeof(Slot) == 64);

  void encode_uncached(std::string_view word, std::vector<int32_t>& ids) {
    if (bpe_.rules_.ignore_merges) {
      if (const auto id = bpe_.vocabulary_.find(spelling(word))) {
        ids.push_back(*id);
        return;
      }
    }
    symbols_.clear();
    if (bpe_.rules_.byte_level && bpe_.has_all_bytes_) {
      for (const char c : word) symbols_.push_back(bpe_.byte_ids_[static_cast<uint8_t>(c)]);
    } else {
      split_characters(spelling(word));
    }
    if (symbols_.size() <= kShortWord) {
      merge_by_scan(ids);
    } else {
      merge_by_heap(ids);
    }
  }

  /// The word as the vocabulary spells it.
  std::string_view spelling(std::string_view word) {
    if (!bpe_.rules_.byte_level) return word;
    spelling_.clear();
    for (const char c : word) append_utf8(spelling_, byte_level_character(static_cast<uint8_t>(c)));
    return spelling_;
  }

  /// One symbol for each character; unknown ones become bytes, or unk, or nothing.
  void split_characters(std::string_view text) {
    const BpeRules& rules = bpe_.rules_;
    bool unk_waits = false;  // as in the reference, bytes do not flush a waiting unk
    for (size_t at = 0; at < text.size();) {
      const std::string_view character = text.substr(at, character_bytes(text[at]));
      at += character.size();
      if (const auto id = bpe_.vocabulary_.find(character)) {
        if (unk_waits) symbols_.push_back(*rules.unk);
        unk_waits = false;
        symbols_.push_back(*id);
        continue;
      }
      const auto has_byte = [&](char c) {
        return bpe_.fallback_ids_[static_cast<uint8_t>(c)] >= 0;
      };
      if (rules.byte_fallback && std::all_of(character.begin(), character.end(), has_byte)) {
        for (const char c : character) {
          symbols_.push_back(bpe_.fallback_ids_[static_cast<uint8_t>(c)]);
        }
      } else if (rules.unk) {
        if (unk_waits && !rules.fuse_unk) symbols_.push_back(*rules.unk);
        unk_waits = true;
      }
    }
    if (unk_waits) symbols_.push_back(*rules.unk);
  }

  /// Looks at all pairs again after every merge: quickest for the usual short words.
  void merge_by_scan(std::vector<int32_t>& ids) {
    size_t count = symbols_.size();
    std::array<const Pair*, kShortWord> pairs;  // pairs[i]: symbols i and i + 1
    for (size_t i = 0; i + 1 < count; ++i) pairs[i] = bpe_.find_pair(symbols_[i], symbols_[i + 1]);
    while (count > 1) {
      size_t best = count;
      int32_t best_rank = INT32_MAX;
      for (size_t i = 0; i + 1 < count; ++i) {
        if (pairs[i] && pairs[i]->rank < best_rank) {
          best_rank = pairs[i]->rank;
          best = i;
        }
      }
      if (best == count) break;
      symbols_[best] = pairs[best]->result;
      --count;
      for (size_t i = best + 1; i < count; ++i) {
        symbols_[i] = symbols_[i + 1];
        pairs[i - 1] = pairs[i];
      }
      if (best > 0) pairs[best - 1] = bpe_.find_pair(symbols_[best - 1], symbols_[best]);
      if (best + 1 < count) pairs[best] = bpe_.find_pair(symbols_[best], symbols_[best + 1]);
    }
    ids.insert(ids.end(), symbols_.begin(), symbols_.begin() + static_cast<int64_t>(count));
  }

  /// A linked list of symbols and a heap of candidate merges: n log n for words of any length.
  void merge_by_heap(std::vector<int32_t>& ids) {
    const auto count = static_cast<int64_t>(symbols_.size());
    struct Link {
      int64_t previous, next;
    };
    struct Candidate {
      int32_t rank;
      int64_t place;
      uint64_t key;  // the pair that stood there; stale once it has changed
      bool operator<(const Candidate& o) const {  // the top of the heap is merged next
        return rank != o.rank ? rank > o.rank : place > o.place;
      }
    };
    std::vector<Link> links(symbols_.size());
    for (int64_t i = 0; i < count; ++i) links[i] = {i - 1, i + 1 < count ? i + 1 : -1};
    std::priority_queue<Candidate> heap;
    const auto offer = [&](int64_t place) {
      const int64_t next = links[place].next;
      if (next < 0) return;
      if (const Pair* pair = bpe_.find_pair(symbols_[place], symbols_[next])) {
        heap.push({pair->rank, place, pair->key});
      }
    };
    for (int64_t i = 0; i + 1 < count; ++i) offer(i);
    while (!heap.empty()) {
      const Candidate top = heap.top();
      heap.pop();
      if (symbols_[top.place] < 0) continue;  // swallowed by its left neighbour
      const int64_t next = links[top.place].next;
      if (next < 0 || pair_key(symbols_[top.place], symbols_[next]) != top.key) continue;
      symbols_[top.place] = bpe_.find_pair(symbols_[top.place], symbols_[next])->result;
      symbols_[next] = -1;
      links[top.place].next = links[next].next;
      if (links[next].next >= 0) links[links[next].next].previous = top.place;
      if (links[top.place].previous >= 0) offer(links[top.place].previous);
      offer(top.place);
    }
    for (int64_t i = 0; i >= 0; i = links[i].next) ids.push_back(symbols_[i]);
  }

  const Bpe& bpe_;
  std::vector<Slot> cache_;
  std::vector<int32_t> symbols_;
  std::string spelling_;
};

Bpe::Bpe(Vocabulary vocabulary, BpeRules rules)
    : vocabulary_(std::move(vocabulary)), rules_(std::move(rules)) {
  pairs_.resize(std::bit_ceil(2 * rules_.merges.size() + 2));
  for (size_t rank = 0; rank < rules_.merges.size(); ++rank) {
    const auto [left, right, result] = rules_.merges[rank];
    const uint64_t key = pair_key(left, right);
    size_t slot = pair_slot(key) & (pairs_.size() - 1);
    while (pairs_[slot].key != UINT64_MAX && pairs_[slot].key != key) {
      slot = (slot + 1) & (pairs_.size() - 1);
    }
    pairs_[slot] = {key, static_cast<int32_t>(rank),
                    result};  // the last of equals, as the reference
  }
  std::string spelt;
  has_all_bytes_ = true;
  for (int b = 0; b < 256; ++b) {
    spelt.clear();
    append_utf8(spelt, byte_level_character(static_cast<uint8_t>(b)));
    byte_ids_[b] = vocabulary_.find(spelt).value_or(-1);
    has_all_bytes_ = has_all_bytes_ && byte_ids_[b] >= 0;
    fallback_ids_[b] = vocabulary_.find(fmt::format("<0x{:02X}>", b)).value_or(-1);
  }
}

Bpe::~Bpe() = default;

const Bpe::Pair* Bpe::find_pair(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  size_t slot = pair_slot(key) & (pairs_.size() - 1);
  for (; pairs_[slot].key != UINT64_MAX; slot = (slot + 1) & (pairs_.size() - 1)) {
    if (pairs_[slot].key == key) return &pairs_[slot];
  }
  return nullptr;
}

Bpe::Lease Bpe::encoder() const {
  std::unique_ptr<Encoder> encoder;
  {
    const std::lock_guard lock(mutex_);
    if (!free_encoders_.empty()) {
      encoder = std::move(free_encoders_.back());
      free_encoders_.pop_back();
    }
  }
  if (!encoder) encoder = std::make_unique<Encoder>(*this);
  return {*this, std::move(encoder)};
}

Bpe::Lease::Lease(const Bpe& bpe, std::unique_ptr<Encoder> encoder)
    : bpe_(bpe), encoder_(std::move(encoder)) {}

Bpe::Lease::~Lease() {
  const std::lock_guard lock(bpe_.mutex_);
  bpe_.free_encoders_.push_back(std::move(encoder_));
}

void Bpe::Lease::encode(std::string_view word, std::vector<int32_t>& ids) {
  encoder_->encode(word, ids);
}

}  // namespace qlora::data
