#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "core/error.h"
#include "data/json_members.h"
#include "data/tokenizer_spec.h"
#include "io/foreign_text.h"

namespace qlora::data {
namespace {

using nlohmann::json;

/// Takes model.vocab and model.merges out of the stream of events and builds a tree of the rest.
class TokenizerJsonReader final : public nlohmann::json_sax<json> {
 public:
  explicit TokenizerJsonReader(const std::string& where) : where_(where) {}

  json root;
  Vocabulary vocabulary;
  std::string merge_text;            // all halves of all merges, one after another
  std::vector<uint64_t> merge_ends;  // ends of the halves: two for each merge
  std::vector<double> scores;        // of a Unigram vocabulary
  bool has_scores = false;

  bool null() override { return value(nullptr); }
  bool boolean(bool b) override { return value(b); }
  bool number_integer(number_integer_t n) override {
    if (region_ == Region::kScores) return score(static_cast<double>(n));
    if (in_vocabulary()) refuse_id(n);
    return value(n);
  }
  bool number_unsigned(number_unsigned_t n) override {
    if (region_ == Region::kScores) return score(static_cast<double>(n));
    if (!in_vocabulary()) return value(n);
    if (n > static_cast<uint64_t>(kMaxTokenId)) refuse_id(n);
    QLORA_CHECK(vocabulary.add(piece_, static_cast<int32_t>(n)), FormatError,
                "[tokenizer] {}: the piece {} or its id {} is in the vocabulary twice", where_,
                io::quote(piece_), n);
    return true;
  }
  bool number_float(number_float_t n, const string_t& text) override {
    if (region_ == Region::kScores) return score(n);
    if (in_vocabulary()) refuse_id(text);
    return value(n);
  }
  bool string(string_t& text) override {
    if (in_vocabulary()) refuse_id(io::quote(text));
    if (region_ == Region::kMerges) return depth_ == kMergesDepth ? merge(text) : half(text);
    if (region_ == Region::kScores) return scored_piece(text);
    return value(std::move(text));
  }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override {
    deepen();
    if (region_ == Region::kTree && at_model_member("vocab")) {
      region_ = Region::kVocabulary;
      return true;
    }
    if (region_ != Region::kTree) refuse("an object inside the vocabulary or the merges");
    open(json::object());
    return true;
  }
  bool end_object() override {
    --depth_;
    if (region_ == Region::kVocabulary) {
      region_ = Region::kTree;
    } else {
      stack_.pop_back();
    }
    return true;
  }
  bool key(string_t& text) override {
    if (in_vocabulary()) {
      piece_ = std::move(text);
    } else {
      key_ = std::move(text);
      QLORA_CHECK(!stack_.back()->contains(key_), FormatError,
                  "[tokenizer] {}: the key {} stands twice in one object", where_, io::quote(key_));
    }
    return true;
  }
  bool start_array(std::size_t) override {
    deepen();
    if (region_ == Region::kTree && at_model_member("merges")) {
      region_ = Region::kMerges;
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
  bool end_array() override {
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
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw FormatError(fmt::format("[tokenizer] {} is not JSON, at byte {}: {}", where_, position,
                                  io::quote(error.what())));
  }

 private:
  enum class Region { kTree, kVocabulary, kMerges, kScores };
  static constexpr int kMaxDepth = 64;
  static constexpr int kMergesDepth = 3;  // root, model, merges

  bool in_vocabulary() const { return region_ == Region::kVocabulary; }
  [[noreturn]] void refuse(const char* what) const {
    throw FormatError(fmt::format("[tokenizer] {} has {}", where_, what));
  }
  template <class Id>
  [[noreturn]] void refuse_id(const Id& id) const {
    throw FormatError(fmt::format("[tokenizer] {}: the id of {} is {}, allowed 0 to {}", where_,
                                  io::quote(piece_), id, kMaxTokenId));
  }
  void deepen() {
    if (++depth_ > kMaxDepth) refuse("more than 64 levels of nesting");
  }
  /// A container that is about to open is root.model.<name>.
  bool at_model_member(std::string_view name) const {
    return stack_.size() == 2 && key_ == name && model_ && stack_.back() == model_;
  }
  void open(json container) {
    json* place = put(std::move(container));
    if (stack_.size() == 1 && key_ == "model") model_ = place;
    stack_.push_back(place);
  }
  json* put(json&& item) {
    if (stack_.empty()) return &(root = std::move(item));
    json& parent = *stack_.back();
    if (parent.is_array()) {
      // A list grows, and its items move: no pointer to a closed sibling is kept.
      parent.push_back(std::move(item));
      return &parent.back();
    }
    return &(parent[key_] = std::move(item));
  }
  bool value(json item) {
    if (region_ == Region::kMerges) refuse("a merge that is neither text nor pair");
    if (region_ == Region::kVocabulary) refuse("a piece whose id is no number");
    if (region_ == Region::kScores) refuse("a piece whose score is no number");
    put(std::move(item));
    return true;
  }
  bool half(const std::string& text) {
    merge_text += text;
    merge_ends.push_back(merge_text.size());
    return true;
  }
  /// ["piece", score] of a Unigram vocabulary: the text, then the score.
  bool scored_piece(string_t& text) {
    if (depth_ != kMergesDepth + 1 || has_piece_)
      refuse("a piece that is no pair of text and score");
    piece_ = std::move(text);
    has_piece_ = true;
    return true;
  }
  bool score(double value) {
    if (!has_piece_ || !std::isfinite(value)) refuse("a piece that is no pair of text and score");
    const auto id = static_cast<int64_t>(scores.size());
    if (id > kMaxTokenId) refuse_id(id);
    QLORA_CHECK(vocabulary.add(piece_, static_cast<int32_t>(id)), FormatError,
                "[tokenizer] {}: the piece {} is in the vocabulary twice", where_,
                io::quote(piece_));
    scores.push_back(value);
    has_piece_ = false;
    return true;
  }
  /// "left right": exactly one space.
  bool merge(const std::string& text) {
    const size_t space = text.find(' ');
    QLORA_CHECK(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
                FormatError, "[tokenizer] {}: the merge {} is not two pieces with a space between",
                where_, io::quote(text));
    half(text.substr(0, space));
    half(text.substr(space + 1));
    ++pairs_;
    return true;
  }

  const std::string& where_;
  Region region_ = Region::kTree;
  int depth_ = 0;
  std::vector<json*> stack_;  // open containers of the tree
  json* model_ = nullptr;
  std::string key_, piece_;
  size_t pairs_ = 0;
  bool has_piece_ = false;  // the text of a scored piece was read, its score not yet
};

std::vector<BpeRules::Merge> resolve_merges(const TokenizerJsonReader& reader,
                                            const std::string& where) {
  std::vector<BpeRules::Merge> merges;
  merges.reserve(reader.merge_ends.size() / 2);
  const std::string_view text = reader.merge_text;
  uint64_t begin = 0;
  for (size_t i = 0; i + 1 < reader.merge_ends.size(); i += 2) {
    const uint64_t middle = reader.merge_ends[i], end = reader.merge_ends[i + 1];
    const auto left = reader.vocabulary.find(text.substr(begin, middle - begin));
    const auto right = reader.vocabulary.find(text.substr(middle, end - middle));
    const auto both = reader.vocabulary.find(text.substr(begin, end - begin));
    QLORA_CHECK(left && right && both, FormatError,
                "[tokenizer] {}: merge {} of {} and {} needs a piece that the vocabulary lacks",
                where, i / 2, io::quote(text.substr(begin, middle - begin)),
                io::quote(text.substr(middle, end - middle)));
    merges.push_back({*left, *right, *both});
    begin = end;
  }
  return merges;
}

AddedToken read_added_token(const json& entry, const std::string& where) {
  QLORA_CHECK(entry.is_object() && entry.contains("id") && entry["id"].is_number_unsigned() &&
                  entry["id"] <= static_cast<uint64_t>(kMaxTokenId),
              FormatError, "[tokenizer] {}: an added token lacks an id from 0 to {}", where,
              kMaxTokenId);
  return {.id = entry["id"].get<int32_t>(),
          .content = member_string(entry, "content", where),
          .special = member_bool(entry, "special", false, where),
          .normalized = member_bool(entry, "normalized", true, where),
          .single_word = member_bool(entry, "single_word", false, where),
          .lstrip = member_bool(entry, "lstrip", false, where),
          .rstrip = member_bool(entry, "rstrip", false, where)};
}

Unigram::Rules read_unigram(const json& model, TokenizerJsonReader& reader,
                            const std::string& where) {
  Unigram::Rules rules;
  rules.scores = std::move(reader.scores);
  rules.byte_fallback = member_bool(model, "byte_fallback", false, where);
  const auto unk = model.find("unk_id");
  if (unk == model.end() || unk->is_null()) return rules;
  QLORA_CHECK(unk->is_number_unsigned() && *unk < rules.scores.size(), FormatError,
              "[tokenizer] {}: model.unk_id is {}, outside the vocabulary of {}", where,
              unk->dump(), rules.scores.size());
  rules.unk = unk->get<int32_t>();
  return rules;
}

void refuse_text(const json& model, const char* key, const std::string& where) {
  const auto at = model.find(key);
  QLORA_CHECK(at == model.end() || at->is_null() || (at->is_string() && *at == ""), FormatError,
              "[tokenizer] {}: model.{} is set, which is not supported; allowed null", where, key);
}

}  // namespace

BpeSpec read_tokenizer_json(std::string_view text, const std::string& where) {
  TokenizerJsonReader reader(where);
  json::sax_parse(text.begin(), text.end(), &reader);
  const json& root = reader.root;
  QLORA_CHECK(root.is_object() && root.contains("model") && root["model"].is_object(), FormatError,
              "[tokenizer] {} has no object 'model'; is it a tokenizer.json?", where);
  const json& model = root["model"];
  // Files before the type was written hold BPE where they hold merges.
  const std::string type = model.contains("type")      ? member_string(model, "type", where)
                           : reader.merge_ends.empty() ? "unnamed"
                                                       : "BPE";
  const bool is_unigram = type == "Unigram";
  QLORA_CHECK(type == "BPE" || is_unigram, FormatError,
              "[tokenizer] {}: the model {} is not supported; known are BPE and Unigram here, and "
              "sentencepiece's BPE and unigram in a tokenizer.model",
              where, io::quote(type));
  QLORA_CHECK(reader.has_scores == is_unigram, FormatError,
              "[tokenizer] {}: the vocabulary of the model {} is a list of scores or lacks them",
              where, io::quote(type));
  QLORA_CHECK(reader.vocabulary.size() > 0, FormatError, "[tokenizer] {} has no vocabulary", where);
  refuse_text(model, "continuing_subword_prefix", where);
  refuse_text(model, "end_of_word_suffix", where);

  BpeSpec spec;
  spec.rules.merges = resolve_merges(reader, where);
  spec.rules.byte_fallback = member_bool(model, "byte_fallback", false, where);
  spec.rules.ignore_merges = member_bool(model, "ignore_merges", false, where);
  spec.rules.fuse_unk = member_bool(model, "fuse_unk", false, where);
  if (model.contains("unk_token") && !model["unk_token"].is_null()) {
    const std::string unk = member_string(model, "unk_token", where);
    spec.rules.unk = reader.vocabulary.find(unk);
    QLORA_CHECK(spec.rules.unk, FormatError,
                "[tokenizer] {}: the unk_token {} is not in the vocabulary", where, io::quote(unk));
  }
  if (is_unigram) spec.unigram = read_unigram(model, reader, where);
  spec.vocabulary = std::move(reader.vocabulary);
  if (root.contains("added_tokens") && !root["added_tokens"].is_null()) {
    for (const json& entry : member_array(root, "added_tokens", where)) {
      spec.added.push_back(read_added_token(entry, where));
    }
  }
  spec.normalizer = root.value("normalizer", json());
  spec.pre_tokenizer = root.value("pre_tokenizer", json());
  spec.post_processor = root.value("post_processor", json());
  spec.decoder = root.value("decoder", json());
  return spec;
}

std::string write_tokenizer_json(const BpeSpec& spec) {
  nlohmann::ordered_json root = {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
  auto& added = root["added_tokens"] = nlohmann::ordered_json::array();
  for (const AddedToken& token : spec.added) {
    added.push_back({{"id", token.id},
                     {"content", token.content},
                     {"single_word", token.single_word},
                     {"lstrip", token.lstrip},
                     {"rstrip", token.rstrip},
                     {"normalized", token.normalized},
                     {"special", token.special}});
  }
  root["normalizer"] = spec.normalizer;
  root["pre_tokenizer"] = spec.pre_tokenizer;
  root["post_processor"] = spec.post_processor;
  root["decoder"] = spec.decoder;
  auto& model = root["model"] = {{"type", "BPE"},
                                 {"dropout", nullptr},
                                 {"unk_token", nullptr},
                                 {"continuing_subword_prefix", nullptr},
                                 {"end_of_word_suffix", nullptr},
                                 {"fuse_unk", spec.rules.fuse_unk},
                                 {"byte_fallback", spec.rules.byte_fallback},
                                 {"ignore_merges", spec.rules.ignore_merges}};
  if (spec.rules.unk) model["unk_token"] = spec.vocabulary.piece(*spec.rules.unk);
  auto& vocabulary = model["vocab"] = nlohmann::ordered_json::object();
  auto& pieces = vocabulary.get_ref<nlohmann::ordered_json::object_t&>();
  pieces.reserve(static_cast<size_t>(spec.vocabulary.size()));
  for (int32_t id = 0; id < spec.vocabulary.size(); ++id) {
    // emplace() of an ordered map compares with all before: the pieces are known to differ.
    if (spec.vocabulary.has(id)) {
      static_cast<std::vector<std::pair<const std::string, nlohmann::ordered_json>>&>(pieces)
          .emplace_back(std::string(spec.vocabulary.piece(id)), id);
    }
  }
  auto& merges = model["merges"] = nlohmann::ordered_json::array();
  for (const auto& [left, right, result] : spec.rules.merges) {
    merges.push_back({spec.vocabulary.piece(left), spec.vocabulary.piece(right)});
  }
  return root.dump(1);
}

// Post-processors

namespace {

void add_template(const json& description, const std::string& where, TextFrame& frame) {
  const json empty = json::object();
  const json& tokens =
      description.contains("special_tokens") ? description["special_tokens"] : empty;
  bool seen_text = false;
  for (const json& item : member_array(description, "single", where)) {
    if (item.is_object() && item.contains("Sequence")) {
      QLORA_CHECK(!seen_text, FormatError,
                  "[tokenizer] {}: the template 'single' holds the text twice", where);
      seen_text = true;
      continue;
    }
    QLORA_CHECK(item.is_object() && item.contains("SpecialToken") && tokens.is_object(),
                FormatError,
                "[tokenizer] {}: the template 'single' holds an item that is neither Sequence nor "
                "SpecialToken",
                where);
    const std::string name = member_string(item["SpecialToken"], "id", where);
    QLORA_CHECK(tokens.contains(name), FormatError,
                "[tokenizer] {}: the template names {}, which its special_tokens lack", where,
                io::quote(name));
    for (const json& id : member_array(tokens[name], "ids", where)) {
      QLORA_CHECK(id.is_number_integer() && id >= 0 && id <= kMaxTokenId, FormatError,
                  "[tokenizer] {}: the template's {} has an id that is not 0 to {}", where,
                  io::quote(name), kMaxTokenId);
      (seen_text ? frame.suffix : frame.prefix).push_back(id.get<int32_t>());
    }
  }
  QLORA_CHECK(seen_text, FormatError, "[tokenizer] {}: the template 'single' lacks the text",
              where);
}

void add_post_processor(const json& description, const std::string& where, int depth,
                        TextFrame& frame) {
  if (description.is_null()) return;
  const std::string type = component_type(description, where, "post_processor", depth);
  if (type == "Sequence") {
    for (const json& part : member_array(description, "processors", where)) {
      add_post_processor(part, where, depth + 1, frame);
    }
  } else if (type == "TemplateProcessing") {
    TextFrame inner;
    add_template(description, where, inner);
    frame.prefix.insert(frame.prefix.begin(), inner.prefix.begin(), inner.prefix.end());
    frame.suffix.insert(frame.suffix.end(), inner.suffix.begin(), inner.suffix.end());
  } else if (type != "ByteLevel") {  // ByteLevel trims offsets, which nobody asks for here
    refuse_component("post_processor", type, "ByteLevel, TemplateProcessing, Sequence", where);
  }
}

}  // namespace

TextFrame read_post_processor(const json& description, const std::string& where) {
  TextFrame frame;
  add_post_processor(description, where, 0, frame);
  return frame;
}

}  // namespace qlora::data
