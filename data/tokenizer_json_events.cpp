#include "data/tokenizer_json_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json_file.h"
#include "data/tokenizer_spec.h"
#include "io/foreign_text.h"

namespace qlora::data {

using nlohmann::json;

// Events

bool TokenizerJsonEvents::number_integer(number_integer_t n) {
  if (region_ == Region::kScores) return score(static_cast<double>(n));
  if (in_vocabulary()) refuse_id(std::to_string(n));
  return value(n);
}

bool TokenizerJsonEvents::number_unsigned(number_unsigned_t n) {
  if (region_ == Region::kScores) return score(static_cast<double>(n));
  if (!in_vocabulary()) return value(n);
  if (n > static_cast<uint64_t>(kMaxTokenId)) refuse_id(std::to_string(n));
  QLORA_CHECK(vocabulary.add(piece_, static_cast<int32_t>(n)), FormatError,
              "[tokenizer] {}: the piece {} or its id {} is in the vocabulary twice", where_,
              io::quote(piece_), n);
  return true;
}

bool TokenizerJsonEvents::number_float(number_float_t n, const string_t& text) {
  if (region_ == Region::kScores) return score(n);
  if (in_vocabulary()) refuse_id(text);
  return value(n);
}

bool TokenizerJsonEvents::string(string_t& text) {
  if (in_vocabulary()) refuse_id(io::quote(text));
  if (region_ == Region::kMerges) return depth_ == kMergesDepth ? merge(text) : half(text);
  if (region_ == Region::kScores) return scored_piece(text);
  return value(std::move(text));
}

bool TokenizerJsonEvents::start_object(std::size_t) {
  deepen();
  if (region_ == Region::kTree && at_model_member("vocab")) {
    region_ = Region::kVocabulary;
    return true;
  }
  if (region_ != Region::kTree) refuse("an object inside the vocabulary or the merges");
  open(json::object());
  return true;
}

bool TokenizerJsonEvents::end_object() {
  --depth_;
  if (region_ == Region::kVocabulary) {
    region_ = Region::kTree;
  } else {
    stack_.pop_back();
  }
  return true;
}

bool TokenizerJsonEvents::key(string_t& text) {
  if (in_vocabulary()) {
    piece_ = std::move(text);
  } else {
    key_ = std::move(text);
    QLORA_CHECK(!stack_.back()->contains(key_), FormatError,
                "[tokenizer] {}: the key {} stands twice in one object", where_, io::quote(key_));
  }
  return true;
}

bool TokenizerJsonEvents::start_array(std::size_t) {
  deepen();
  if (region_ == Region::kTree && at_model_member("merges")) {
    region_ = Region::kMerges;
    has_merges = true;
    return true;
  }
  if (region_ == Region::kMerges) {
    if (depth_ != kMergesDepth + 1) refuse("a merge that is neither text nor pair");
    return true;
  }
  if (region_ == Region::kVocabulary) refuse("a list inside the vocabulary");
  if (region_ == Region::kTree && at_model_member("vocab")) {
    region_ = Region::kScores;
    has_scores = true;
    return true;
  }
  if (region_ == Region::kScores) {
    if (depth_ != kMergesDepth + 1) refuse("a list inside a piece of the vocabulary");
    has_piece_ = false;
    return true;
  }
  open(json::array());
  return true;
}

bool TokenizerJsonEvents::end_array() {
  --depth_;
  if (region_ == Region::kScores) {
    if (depth_ == kMergesDepth - 1) {
      region_ = Region::kTree;
    } else if (has_piece_ || static_cast<size_t>(vocabulary.size()) != scores.size() ||
               scores.size() != ++pairs_) {
      refuse("a piece of the vocabulary that is no pair of text and score");
    }
  } else if (region_ == Region::kMerges) {
    if (depth_ == kMergesDepth - 1) {
      region_ = Region::kTree;
    } else if (merge_ends.size() % 2 != 0 || merge_ends.size() / 2 != ++pairs_) {
      refuse("a merge that is no pair");
    }
  } else {
    stack_.pop_back();
  }
  return true;
}

bool TokenizerJsonEvents::parse_error(std::size_t position, const std::string& token,
                                      const nlohmann::detail::exception& error) {
  const std::string place = fmt::format("at {} (byte {} of {})", position_text(text_, position),
                                        std::min(position, text_.size()), text_.size());
  QLORA_CHECK(position <= text_.size(), FormatError,
              "[tokenizer] {} ends too early, {}; fetch the file again", where_, place);
  const std::string read = token.substr(token.size() - std::min<size_t>(token.size(), 40));
  const bool overflow = error.id == 406;  // out_of_range: a number that no double holds
  throw FormatError(
      fmt::format("[tokenizer] {} {} {} {}; fetch the file again", where_,
                  overflow ? "has a number that no double holds," : "is not JSON near",
                  io::quote(read), place));
}

// The rest

void TokenizerJsonEvents::refuse(const char* what) const {
  throw FormatError(fmt::format("[tokenizer] {} has {}", where_, what));
}

void TokenizerJsonEvents::refuse_id(const std::string& id) const {
  throw FormatError(fmt::format("[tokenizer] {}: the id of {} is {}, allowed 0 to {}", where_,
                                io::quote(piece_), id, kMaxTokenId));
}

void TokenizerJsonEvents::deepen() {
  if (++depth_ > kMaxDepth) refuse("more than 64 levels of nesting");
}

/// A container that is about to open is root.model.<name>.
bool TokenizerJsonEvents::at_model_member(std::string_view name) const {
  return stack_.size() == 2 && key_ == name && model_ && stack_.back() == model_;
}

void TokenizerJsonEvents::open(json container) {
  json* place = put(std::move(container));
  if (stack_.size() == 1 && key_ == "model") model_ = place;
  stack_.push_back(place);
}

json* TokenizerJsonEvents::put(json&& item) {
  if (stack_.empty()) return &(root = std::move(item));
  json& parent = *stack_.back();
  if (parent.is_array()) {
    // A list grows, and its items move: no pointer to a closed sibling is kept.
    parent.push_back(std::move(item));
    return &parent.back();
  }
  return &(parent[key_] = std::move(item));
}

bool TokenizerJsonEvents::value(json item) {
  if (region_ == Region::kMerges) refuse("a merge that is neither text nor pair");
  if (region_ == Region::kVocabulary) refuse("a piece whose id is no number");
  if (region_ == Region::kScores) refuse("a piece whose score is no number");
  put(std::move(item));
  return true;
}

bool TokenizerJsonEvents::half(const std::string& text) {
  merge_text += text;
  merge_ends.push_back(merge_text.size());
  return true;
}

/// ["piece", score] of a Unigram vocabulary: the text, then the score.
bool TokenizerJsonEvents::scored_piece(string_t& text) {
  if (depth_ != kMergesDepth + 1 || has_piece_) refuse("a piece that is no pair of text and score");
  piece_ = std::move(text);
  has_piece_ = true;
  return true;
}

bool TokenizerJsonEvents::score(double value) {
  if (!has_piece_ || !std::isfinite(value)) refuse("a piece that is no pair of text and score");
  const auto id = static_cast<int64_t>(scores.size());
  if (id > kMaxTokenId) refuse_id(std::to_string(id));
  QLORA_CHECK(vocabulary.add(piece_, static_cast<int32_t>(id)), FormatError,
              "[tokenizer] {}: the piece {} is in the vocabulary twice", where_, io::quote(piece_));
  scores.push_back(value);
  has_piece_ = false;
  return true;
}

/// "left right": exactly one space.
bool TokenizerJsonEvents::merge(const std::string& text) {
  const size_t space = text.find(' ');
  QLORA_CHECK(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
              FormatError, "[tokenizer] {}: the merge {} is not two pieces with a space between",
              where_, io::quote(text));
  half(text.substr(0, space));
  half(text.substr(space + 1));
  ++pairs_;
  return true;
}

}  // namespace qlora::data
