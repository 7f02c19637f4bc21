#include "core/error.h"
#include "data/json_members.h"
#include "data/tokenizer_json_events.h"
#include "data/tokenizer_spec.h"
#include "io/foreign_text.h"

namespace qlora::data {
namespace {

using nlohmann::json;

std::vector<BpeRules::Merge> resolve_merges(const TokenizerJsonEvents& reader,
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

Unigram::Rules read_unigram(const json& model, TokenizerJsonEvents& reader,
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
  const bool is_set = at != model.end() && !at->is_null() &&
                      !(at->is_string() && at->get_ref<const std::string&>().empty());
  QLORA_CHECK(!is_set, FormatError,
              "[tokenizer] {}: model.{} is set, which is not supported; allowed null", where, key);
}

}  // namespace

BpeSpec read_tokenizer_json(std::string_view text, const std::string& where) {
  TokenizerJsonEvents reader(text, where);
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
  QLORA_CHECK(
      is_unigram || reader.has_merges, FormatError,
      "[tokenizer] {}: the model BPE has no list 'merges', without which it cuts texts into "
      "single characters; allowed an empty list where that is meant",
      where);
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
