#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace qlora::data {

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

}  // namespace qlora::data
