#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <vector>

#include "data/bpe_rules.h"
#include "data/bpe_seams.h"
#include "data/text_hash.h"
#include "data/vocabulary.h"

namespace qlora::data {

/// Byte-pair encoding of words: the lowest-ranked pair first, the leftmost of equals.
///   Equality  the ids of the reference library's BPE model, its order of unknowns included
class Bpe {
 public:
  /// Requires  the ids of rules are in the vocabulary, and the result of a merge is spelt as its
  ///           parts together
  Bpe(Vocabulary vocabulary, BpeRules rules);
  ~Bpe();

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Encodes words, with a cache of its own; one thread at a time. Made by encoder().
  class Encoder;
  /// A free encoder, or a new one; it goes back when the handle dies. Any thread.
  class Lease {
   public:
    Lease(const Bpe& bpe, std::unique_ptr<Encoder> encoder);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    /// Appends the ids of one pre-tokenised word: raw bytes where byte_level, else as spelt.
    void encode(std::string_view word, std::vector<int32_t>& ids);

   private:
    const Bpe& bpe_;
    std::unique_ptr<Encoder> encoder_;
  };
  Lease encoder() const;

 private:
  struct Pair {
    uint64_t key = UINT64_MAX;  // left << 32 | right
    int32_t rank = 0, result = 0;
  };
  static uint64_t pair_key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t pair_slot(uint64_t key) const { return hash_pair(key) & (pairs_.size() - 1); }
  /// The merge of two symbols, or null.
  const Pair* find_pair(int32_t left, int32_t right) const {
    const uint64_t key = pair_key(left, right);
    size_t slot = pair_slot(key);
    for (; pairs_[slot].key != UINT64_MAX; slot = (slot + 1) & (pairs_.size() - 1)) {
      if (pairs_[slot].key == key) return &pairs_[slot];
    }
    return nullptr;
  }
  void index_merges();
  void index_bytes();

  Vocabulary vocabulary_;
  BpeRules rules_;
  std::vector<Pair> pairs_;                  // open addressing, a power of two long
  std::array<int32_t, 256> byte_ids_{};      // byte level: the piece of a byte, or -1
  std::array<int32_t, 256> fallback_ids_{};  // <0xHH>, or -1
  bool has_all_bytes_ = false;
  CharacterIds characters_;
  BpeSeams seams_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Encoder>> free_encoders_;
};

/// GPT-2's printable alphabet for bytes: the character that stands for a byte.
char32_t byte_level_character(uint8_t byte);
/// The byte of a character of that alphabet, or nothing.
std::optional<uint8_t> byte_level_byte(char32_t character);

}  // namespace qlora::data
