#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe.h"

namespace qlora::data {

/// The model "Unigram" of a tokenizer.json: every piece has a score, and a word is cut into the
/// pieces with the greatest sum.
///   Equality  the ids of the reference library: sums in double, the first found of equals, unknown
///             characters at ten below the lowest score, neighbours of them as one
class Unigram {
 public:
  struct Rules {
    std::vector<double> scores;  // by id
    std::optional<int32_t> unk;  // without one, an unknown character is an error
    bool byte_fallback = false;  // an unknown stretch becomes <0xHH> pieces where all are there
  };
  /// Requires  the vocabulary has no holes, and a score for every piece
  Unigram(const Vocabulary& vocabulary, Rules rules);

  /// Appends the ids of one word, as the vocabulary spells it.
  ///   throws  ValueError for a character that no piece has where there is no unk
  void encode(const Vocabulary& vocabulary, std::string_view word, std::vector<int32_t>& ids) const;

 private:
  struct Node {
    uint32_t first_child = 0;  // in nodes_; the children stand side by side, by rising byte
    uint16_t child_count = 0;
    uint8_t byte = 0;
    int32_t id = -1;  // of the piece that ends here
  };
  struct Step {
    double score = 0;
    int64_t from = -1;  // where the best piece that ends here begins; -1: none ends here
    int32_t id = -1;
  };
  void build_trie(const Vocabulary& vocabulary);
  const Node* child(const Node& node, uint8_t byte) const;
  void find_best(std::string_view word, std::vector<Step>& best) const;
  void append(const Vocabulary& vocabulary, std::string_view text, std::vector<int32_t>& ids) const;

  Rules rules_;
  double unknown_score_ = 0;
  std::vector<Node> nodes_;
};

}  // namespace qlora::data
