#pragma once

#include <cstdint>
#include <vector>

#include "data/bpe_rules.h"
#include "data/vocabulary.h"

namespace qlora::data {

/// The pieces of one character, by character: what BPE begins with.
class CharacterIds {
 public:
  explicit CharacterIds(const Vocabulary& vocabulary);
  /// returns   -1 where no piece is this one character
  int32_t find(char32_t code) const {
    if (code < ids_.size()) return ids_[code];
    return code < kDense ? -1 : find_rare(code);
  }

 private:
  static constexpr char32_t kDense = 0x10000;
  int32_t find_rare(char32_t code) const;

  std::vector<int32_t> ids_;                        // up to the last one below kDense
  std::vector<std::pair<char32_t, int32_t>> rare_;  // from kDense on, by rising character
};

/// Where a word may be cut before its pairs are merged: between two characters that no merge brings
/// together. Each part then gets the ids that it gets in the whole, because merges on either side
/// of a cut never meet; and short parts come again and again.
class BpeSeams {
 public:
  /// No word may be cut where merges join more than characters (bytes spelt <0xHH>, or unk), nor
  /// where whole words are looked up first: a part is not the word of the same text there.
  BpeSeams(const Vocabulary& vocabulary, const CharacterIds& characters, const BpeRules& rules);

  bool is_usable() const { return !joined_.empty(); }
  /// Whether a word may be cut between these two, pieces of one character each. Some pairs that no
  /// merge joins are not cut either: the table is a set of hashes.
  ///   Requires  is_usable()
  bool may_cut(int32_t left, int32_t right) const {
    const uint64_t bit = bit_of(left, right);
    return (joined_[bit / 64] >> (bit % 64) & 1) == 0;
  }

 private:
  uint64_t bit_of(int32_t left, int32_t right) const;

  std::vector<uint64_t> joined_;  // a power of two bits; set: a merge may join the pair
};

}  // namespace qlora::data
