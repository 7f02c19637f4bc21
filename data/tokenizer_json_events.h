#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "data/vocabulary.h"

namespace qlora::data {

/// Takes model.vocab and model.merges out of the stream of a tokenizer.json's events, and builds a
/// tree of the rest: a vocabulary of 250,000 pieces never is one.
///   throws   FormatError for damage; every text is foreign
class TokenizerJsonEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// text   what is parsed; where names its file: both for messages, and outlive this
  TokenizerJsonEvents(std::string_view text, const std::string& where)
      : text_(text), where_(where) {}

  nlohmann::json root;
  Vocabulary vocabulary;
  std::string merge_text;            // all halves of all merges, one after another
  std::vector<uint64_t> merge_ends;  // ends of the halves: two for each merge
  std::vector<double> scores;        // of a Unigram vocabulary
  bool has_scores = false;
  bool has_merges = false;  // the model has a list of that name

  bool null() override { return value(nullptr); }
  bool boolean(bool b) override { return value(b); }
  bool number_integer(number_integer_t n) override;
  bool number_unsigned(number_unsigned_t n) override;
  bool number_float(number_float_t n, const string_t& text) override;
  bool string(string_t& text) override;
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override;
  bool end_object() override;
  bool key(string_t& text) override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override;

 private:
  enum class Region { kTree, kVocabulary, kMerges, kScores };
  static constexpr int kMaxDepth = 64;
  static constexpr int kMergesDepth = 3;  // root, model, merges

  bool in_vocabulary() const { return region_ == Region::kVocabulary; }
  [[noreturn]] void refuse(const char* what) const;
  [[noreturn]] void refuse_id(const std::string& id) const;
  void deepen();
  bool at_model_member(std::string_view name) const;
  void open(nlohmann::json container);
  nlohmann::json* put(nlohmann::json&& item);
  bool value(nlohmann::json item);
  bool half(const std::string& text);
  bool scored_piece(string_t& text);
  bool score(double value);
  bool merge(const std::string& text);

  std::string_view text_;
  const std::string& where_;
  Region region_ = Region::kTree;
  int depth_ = 0;
  std::vector<nlohmann::json*> stack_;  // open containers of the tree
  nlohmann::json* model_ = nullptr;
  std::string key_, piece_;
  size_t pairs_ = 0;
  bool has_piece_ = false;  // the text of a scored piece was read, its score not yet
};

}  // namespace qlora::data
