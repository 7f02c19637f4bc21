#include "data/bpe_seams.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <set>

#include "data/text_hash.h"
#include "data/utf8.h"

namespace qlora::data {

CharacterIds::CharacterIds(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string_view piece = vocabulary.piece(id);
    if (piece.empty() || piece.size() > 4 || valid_utf8_prefix(piece) != piece.size()) continue;
    size_t end = 0;
    const char32_t code = next_character(piece, end);
    if (end != piece.size()) continue;
    if (code >= kDense) {
      rare_.emplace_back(code, id);
      continue;
    }
    if (code >= ids_.size()) ids_.resize(code + 1, -1);
    ids_[code] = id;
  }
  std::sort(rare_.begin(), rare_.end());
}

int32_t CharacterIds::find_rare(char32_t code) const {
  const auto at = std::lower_bound(rare_.begin(), rare_.end(), std::pair(code, int32_t{0}));
  return at != rare_.end() && at->first == code ? at->second : -1;
}

namespace {

struct Joint {
  char32_t left = 0, right = 0;
};

/// The characters that meet where the parts of a merge are joined; false where these are no texts.
bool find_joint(std::string_view left, std::string_view right, Joint& joint) {
  if (left.empty() || right.empty() || valid_utf8_prefix(left) != left.size() ||
      valid_utf8_prefix(right) != right.size()) {
    return false;
  }
  size_t last = left.size() - 1, first = 0;
  while ((static_cast<uint8_t>(left[last]) & 0xC0) == 0x80) --last;
  joint = {next_character(left, last), next_character(right, first)};
  return true;
}

/// Ids that a word may begin with although no character has them.
std::set<int32_t> other_symbols(const Vocabulary& vocabulary, const BpeRules& rules) {
  std::set<int32_t> symbols;
  if (rules.unk) symbols.insert(*rules.unk);
  for (int b = 0; b < 256 && rules.byte_fallback; ++b) {
    if (const auto id = vocabulary.find(fmt::format("<0x{:02X}>", b))) symbols.insert(*id);
  }
  return symbols;
}

}  // namespace

BpeSeams::BpeSeams(const Vocabulary& vocabulary, const CharacterIds& characters,
                   const BpeRules& rules) {
  if (rules.ignore_merges) return;
  const std::set<int32_t> others = other_symbols(vocabulary, rules);
  std::vector<std::pair<int32_t, int32_t>> joined;
  for (const auto& [left, right, result] : rules.merges) {
    Joint joint;
    if (others.contains(left) || others.contains(right) ||
        !find_joint(vocabulary.piece(left), vocabulary.piece(right), joint)) {
      return;
    }
    joined.emplace_back(characters.find(joint.left), characters.find(joint.right));
  }
  std::sort(joined.begin(), joined.end());
  joined.erase(std::unique(joined.begin(), joined.end()), joined.end());
  joined_.resize(
      std::bit_ceil(joined.size() / 2 + 1));  // at least 32 bits a pair: 3 in 100 are false
  for (const auto& [left, right] : joined) {
    const uint64_t bit = bit_of(left, right);
    joined_[bit / 64] |= uint64_t{1} << (bit % 64);
  }
}

uint64_t BpeSeams::bit_of(int32_t left, int32_t right) const {
  const uint64_t pair =
      static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  return hash_pair(pair) & (joined_.size() * 64 - 1);
}

}  // namespace qlora::data
