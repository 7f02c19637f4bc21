#include "data/added_tokens.h"

#include <algorithm>

#include "data/unicode.h"
#include "data/utf8.h"

namespace qlora::data {
namespace {

size_t character_before(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool word_ends_before(std::string_view text, size_t at) {
  if (at == 0) return false;
  size_t begin = character_before(text, at);
  return is_word_character(next_character(text, begin));
}

bool word_starts_at(std::string_view text, size_t at) {
  return at < text.size() && is_word_character(next_character(text, at));
}

size_t white_space_begin(std::string_view text, size_t at) {
  while (at > 0) {
    const size_t begin = character_before(text, at);
    size_t next = begin;
    if (!is_white_space(next_character(text, next))) break;
    at = begin;
  }
  return at;
}

size_t white_space_end(std::string_view text, size_t at) {
  while (at < text.size()) {
    size_t next = at;
    if (!is_white_space(next_character(text, next))) break;
    at = next;
  }
  return at;
}

}  // namespace

AddedTokenSplitter::AddedTokenSplitter(std::vector<AddedToken> tokens,
                                       const std::vector<std::string>& spellings)
    : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (spellings[i].empty()) continue;
    starts_[static_cast<uint8_t>(spellings[i][0])] = true;
    uint32_t node = 0;
    for (const char c : spellings[i]) {
      const auto [edge, is_new] =
          edges_.try_emplace(uint64_t{node} << 8 | static_cast<uint8_t>(c), nodes_.size());
      if (is_new) nodes_.push_back(-1);
      node = edge->second;
    }
    if (nodes_[node] < 0) nodes_[node] = static_cast<int32_t>(i);
  }
}

AddedTokenSplitter::Match AddedTokenSplitter::longest_at(std::string_view text, size_t at) const {
  Match best;
  uint32_t node = 0;
  while (at < text.size()) {
    const auto edge = edges_.find(uint64_t{node} << 8 | static_cast<uint8_t>(text[at]));
    if (edge == edges_.end()) break;
    node = edge->second;
    ++at;
    if (nodes_[node] >= 0) best = {at, nodes_[node]};
  }
  return best;
}

void AddedTokenSplitter::split(std::string_view text, bool parse_special,
                               std::vector<Part>& parts) const {
  size_t done = 0;  // everything before is in `parts`
  for (size_t at = 0; at < text.size() && !empty();) {
    if (!starts_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = longest_at(text, at);
    if (match.token < 0) {
      ++at;
      continue;
    }
    size_t begin = at, end = match.end;
    at = match.end;  // also where the match is passed over: the next one begins behind it
    const AddedToken& token = tokens_[match.token];
    if (token.special && !parse_special) continue;
    if (token.single_word && (word_ends_before(text, begin) || word_starts_at(text, end))) continue;
    if (token.lstrip) begin = std::max(white_space_begin(text, begin), done);
    if (token.rstrip) end = white_space_end(text, end);
    if (done < begin) parts.push_back({text.substr(done, begin - done), -1});
    parts.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
}

}  // namespace qlora::data
