#pragma once

#include <string>
#include <vector>

#include "data/normalizer.h"
#include "data/pre_tokenizer.h"
#include "data/token_decoder.h"
#include "data/tokenizer.h"
#include "data/tokenizer_spec.h"

namespace qlora::data {

/// The pipeline of a tokenizer.json: added tokens, normalizer, pre-tokenizer, the model (BPE's
/// merges, or Unigram), post-processor, and the decoder back.
class BpeTokenizer final : public Tokenizer {
 public:
  /// throws   FormatError where the parts do not fit; `where` names the file
  BpeTokenizer(BpeSpec spec, const TokenizerConfig& config, const std::string& where);

  int32_t vocab_size() const override { return vocab_size_; }
  std::string id_to_piece(int32_t id) const override;
  std::optional<int32_t> piece_to_id(std::string_view piece) const override;
  bool is_special(int32_t id) const override;
  std::string kind() const override;

 protected:
  void encode_valid(std::string_view text, const EncodeOptions& options,
                    std::vector<int32_t>& ids) const override;
  std::string decode_valid(std::span<const int32_t> ids, bool keep_special) const override;

 private:
  void index_added(std::vector<AddedToken> added, const std::string& where);

  Bpe bpe_;  // of a Unigram model the vocabulary alone
  std::optional<Unigram> unigram_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  TokenDecoder decoder_;
  TextFrame frame_;
  std::unordered_map<int32_t, AddedToken> added_;       // by id
  std::unordered_map<std::string, int32_t> added_ids_;  // by content
  AddedTokenSplitter raw_splitter_, normalized_splitter_;
  int32_t vocab_size_ = 0;
};

}  // namespace qlora::data
