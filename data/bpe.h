#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
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

/// What the merge rule of a BPE tokenizer consists of, beside its vocabulary.
struct BpeRules {
  struct Merge {
    int32_t left, right, result;
  };
  std::vector<Merge> merges;   // by falling priority
  bool byte_level = false;     // the vocabulary spells bytes in GPT-2's alphabet
  bool byte_fallback = false;  // unknown characters become <0xHH> pieces
  bool ignore_merges = false;  // a word that is a piece is taken whole
  bool fuse_unk = false;       // neighbouring unknown characters become one unk
  std::optional<int32_t> unk;  // without one, unknown characters vanish
};

/// Byte-pair encoding of words: the lowest-ranked pair first, the leftmost of equals.
///   Equality  the ids of the reference library's BPE model, its order of unknowns included
class Bpe {
 public:
  /// Requires  the ids of rules are in the vocabulary
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
  const Pair* find_pair(int32_t left, int32_t right) const;

  Vocabulary vocabulary_;
  BpeRules rules_;
  std::vector<Pair> pairs_;                  // open addressing, a power of two long
  std::array<int32_t, 256> byte_ids_{};      // byte level: the piece of a byte, or -1
  std::array<int32_t, 256> fallback_ids_{};  // <0xHH>, or -1
  bool has_all_bytes_ = false;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Encoder>> free_encoders_;
};

/// GPT-2's printable alphabet for bytes: the character that stands for a byte.
char32_t byte_level_character(uint8_t byte);
/// The byte of a character of that alphabet, or nothing.
std::optional<uint8_t> byte_level_byte(char32_t character);

}  // namespace qlora::data
