#include "data/unigram.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "data/utf8.h"
#include "io/foreign_text.h"

namespace qlora::data {
namespace {

constexpr double kUnknownPenalty = 10.0;  // of the reference

}  // namespace

Unigram::Unigram(const Vocabulary& vocabulary, Rules rules) : rules_(std::move(rules)) {
  const auto lowest = std::min_element(rules_.scores.begin(), rules_.scores.end());
  unknown_score_ = (lowest == rules_.scores.end() ? 0.0 : *lowest) - kUnknownPenalty;
  build_trie(vocabulary);
}

void Unigram::build_trie(const Vocabulary& vocabulary) {
  // Sorted pieces with a common beginning stand side by side: a node is a range of them.
  std::vector<int32_t> order(static_cast<size_t>(vocabulary.size()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return vocabulary.piece(a) < vocabulary.piece(b); });
  struct Range {
    size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, order.size(), 0}};
  nodes_.assign(1, {});
  for (size_t n = 0; n < nodes_.size(); ++n) {
    auto [begin, end, depth] = ranges[n];
    while (begin < end && vocabulary.piece(order[begin]).size() == depth) {
      if (depth > 0) nodes_[n].id = order[begin];
      ++begin;
    }
    nodes_[n].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char byte = vocabulary.piece(order[begin])[depth];
      size_t next = begin;
      while (next < end && vocabulary.piece(order[next])[depth] == byte) ++next;
      nodes_.push_back({.byte = static_cast<uint8_t>(byte)});
      ranges.push_back({begin, next, depth + 1});
      ++nodes_[n].child_count;
      begin = next;
    }
  }
}

const Unigram::Node* Unigram::child(const Node& node, uint8_t byte) const {
  const Node* begin = nodes_.data() + node.first_child;
  const Node* end = begin + node.child_count;
  const Node* at =
      std::lower_bound(begin, end, byte, [](const Node& n, uint8_t b) { return n.byte < b; });
  return at != end && at->byte == byte ? at : nullptr;
}

/// best[i]: the way to cut the first i bytes. Viterbi's algorithm, as the reference runs it.
void Unigram::find_best(std::string_view word, std::vector<Step>& best) const {
  best.assign(word.size() + 1, {});
  for (size_t at = 0; at < word.size();) {
    const double so_far = best[at].score;
    const size_t character = character_bytes(word[at]);
    const auto offer = [&](size_t length, double score, int32_t id) {
      Step& step = best[at + length];
      if (step.from < 0 || so_far + score > step.score) {
        step = {so_far + score, static_cast<int64_t>(at), id};
      }
    };
    bool has_single = false;
    const Node* node = nodes_.data();
    for (size_t length = 1; at + length <= word.size(); ++length) {
      node = child(*node, static_cast<uint8_t>(word[at + length - 1]));
      if (!node) break;
      if (node->id < 0) continue;
      offer(length, rules_.scores[static_cast<size_t>(node->id)], node->id);
      has_single = has_single || length == character;
    }
    if (!has_single) {
      QLORA_CHECK(rules_.unk, ValueError,
                  "[tokenizer] the vocabulary has no piece for {} and no unk piece",
                  io::quote(word.substr(at, character)));
      offer(character, unknown_score_, *rules_.unk);
    }
    at += character;
  }
}

/// The id of a stretch; of one that is no piece, its bytes or unk.
void Unigram::append(const Vocabulary& vocabulary, std::string_view text,
                     std::vector<int32_t>& ids) const {
  if (const auto id = vocabulary.find(text)) {
    ids.push_back(*id);
    return;
  }
  if (rules_.byte_fallback) {
    const size_t before = ids.size();
    bool has_all = true;
    for (const char c : text) {
      const auto id = vocabulary.find(fmt::format("<0x{:02X}>", static_cast<uint8_t>(c)));
      has_all = has_all && id;
      if (has_all) ids.push_back(*id);
    }
    if (has_all) return;
    ids.resize(before);
  }
  ids.push_back(*rules_.unk);
}

void Unigram::encode(const Vocabulary& vocabulary, std::string_view word,
                     std::vector<int32_t>& ids) const {
  thread_local std::vector<Step> best;
  thread_local std::vector<std::string_view> parts;  // from the end
  find_best(word, best);
  parts.clear();
  bool was_unknown = false;
  for (size_t end = word.size(); end > 0;) {
    const auto from = static_cast<size_t>(best[end].from);
    const bool is_unknown = rules_.unk && best[end].id == *rules_.unk;
    if (is_unknown && was_unknown) {  // neighbours become one
      parts.back() = word.substr(from, parts.back().size() + (end - from));
    } else {
      parts.push_back(word.substr(from, end - from));
    }
    was_unknown = is_unknown;
    end = from;
  }
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) append(vocabulary, *part, ids);
}

}  // namespace qlora::data
