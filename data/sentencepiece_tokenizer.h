#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/tokenizer.h"
#include "data/tokenizer_spec.h"

namespace qlora::data {

/// A sentencepiece model (BPE, unigram, word or char) with the special tokens that Hugging Face
/// puts around it.
///   Control pieces (<s>, </s>) and added tokens are cut out of the text first; sentencepiece sees
///   what lies between. Only the start of the text gets the model's prefix space, unless
///   tokenizer_config.json says "legacy": then every stretch does.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// model    content of a tokenizer.model
  /// throws   FormatError where sentencepiece refuses it; `where` names the file
  SentencePieceTokenizer(std::string_view model, const TokenizerConfig& config,
                         const std::string& where);
  ~SentencePieceTokenizer() override;

  int32_t vocab_size() const override { return vocab_size_; }
  std::string id_to_piece(int32_t id) const override;
  std::optional<int32_t> piece_to_id(std::string_view piece) const override;
  bool is_special(int32_t id) const override;
  std::string kind() const override { return "sentencepiece"; }

 protected:
  void encode_valid(std::string_view text, const EncodeOptions& options,
                    std::vector<int32_t>& ids) const override;
  std::string decode_valid(std::span<const int32_t> ids, bool keep_special) const override;

 private:
  struct Processors;

  void index_added(const TokenizerConfig& config, const std::string& where);

  std::unique_ptr<Processors> processors_;
  std::unordered_map<int32_t, AddedToken> added_;       // by id, with the control pieces
  std::unordered_map<std::string, int32_t> added_ids_;  // by content
  AddedTokenSplitter splitter_;
  int32_t piece_count_ = 0;  // of the model
  int32_t vocab_size_ = 0;   // with added tokens
  bool legacy_ = false;
  bool strips_spaces_ = false;  // the model's normalizer drops spaces at both ends
};

}  // namespace qlora::data
