#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe.h"

namespace qlora::data {

/// The symbols of a word while they are merged, and a cache of short words and parts of words.
class Bpe::Encoder {
 public:
  explicit Encoder(const Bpe& bpe);

  /// Appends the ids of a word.
  void encode(std::string_view word, std::vector<int32_t>& ids);

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

  /// Appends the ids of a short text out of the cache, or what `make` appends.
  template <class Make>
  void remember(std::string_view text, std::vector<int32_t>& ids, const Make& make);

  void encode_uncached(std::string_view word, std::vector<int32_t>& ids);
  void encode_in_parts(std::string_view word, std::vector<int32_t>& ids);
  std::string_view spelling(std::string_view word);
  /// What stands for a character that has no piece: appended to `out`, or a waiting unk.
  void add_unknown(std::string_view character, std::vector<int32_t>& out);
  void flush_unknown(std::vector<int32_t>& out);
  void split_characters(std::string_view text);
  void merge(std::vector<int32_t>& ids);
  void merge_by_scan(std::vector<int32_t>& ids);
  void merge_by_heap(std::vector<int32_t>& ids);

  const Bpe& bpe_;
  const bool cuts_;  // words into parts
  std::vector<Slot> cache_;
  std::vector<int32_t> symbols_;
  bool unk_waits_ = false;
  std::string spelling_;
};

}  // namespace qlora::data
