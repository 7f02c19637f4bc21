#include "data/bpe_tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::data {
namespace {

BpeRules with_byte_level(BpeRules rules, bool byte_level) {
  rules.byte_level = byte_level;
  return rules;
}

}  // namespace

BpeTokenizer::BpeTokenizer(BpeSpec spec, const TokenizerConfig& config, const std::string& where)
    : bpe_(std::move(spec.vocabulary),
           with_byte_level(std::move(spec.rules),
                           PreTokenizer(spec.pre_tokenizer, where).is_byte_level())),
      normalizer_(spec.normalizer, where),
      pre_tokenizer_(spec.pre_tokenizer, where),
      decoder_(spec.decoder, where),
      frame_(read_post_processor(spec.post_processor, where)) {
  if (spec.unigram) {
    QLORA_CHECK(!pre_tokenizer_.is_byte_level(), FormatError,
                "[tokenizer] {}: a Unigram model with the pre_tokenizer ByteLevel is not supported",
                where);
    unigram_.emplace(bpe_.vocabulary(), std::move(*spec.unigram));
  }
  for (const AddedToken& token : config.added) {
    const auto is_same = [&](const AddedToken& t) { return t.content == token.content; };
    if (std::none_of(spec.added.begin(), spec.added.end(), is_same)) spec.added.push_back(token);
  }
  index_added(std::move(spec.added), where);
  chat_templates_ = config.chat_templates;
  const auto id_of = [&](const std::optional<std::string>& text, const char* role) {
    const std::optional<int32_t> id = text ? piece_to_id(*text) : std::nullopt;
    QLORA_CHECK(!text || text->empty() || id, FormatError,
                "[tokenizer] {}: the {} token {} is not in the vocabulary", where, role,
                io::quote(*text));
    return id;
  };
  special_ = {.bos = id_of(config.bos, "bos"),
              .eos = id_of(config.eos, "eos"),
              .pad = id_of(config.pad, "pad"),
              .unk = id_of(config.unk, "unk")};
  for (const auto* ids : {&frame_.prefix, &frame_.suffix}) {
    for (const int32_t id : *ids) {
      QLORA_CHECK(id < vocab_size_, FormatError,
                  "[tokenizer] {}: the post_processor adds the token {}, outside the vocabulary of "
                  "{}",
                  where, id, vocab_size_);
    }
  }
  add_bos_ = special_.bos && !frame_.prefix.empty() && frame_.prefix.front() == *special_.bos;
  add_eos_ = special_.eos && !frame_.suffix.empty() && frame_.suffix.back() == *special_.eos;
}

void BpeTokenizer::index_added(std::vector<AddedToken> added, const std::string& where) {
  vocab_size_ = bpe_.vocabulary().size();
  std::vector<AddedToken> raw, normalized;
  std::vector<std::string> raw_spellings, normalized_spellings;
  for (AddedToken& token : added) {
    if (token.content.empty()) continue;
    const auto known = bpe_.vocabulary().find(token.content);
    QLORA_CHECK(known ? *known == token.id : !bpe_.vocabulary().has(token.id), FormatError,
                "[tokenizer] {}: the added token {} has the id {}, but the vocabulary says {}",
                where, io::quote(token.content), token.id,
                known ? std::to_string(*known) : std::string("another token"));
    const bool is_new = added_ids_.emplace(token.content, token.id).second &&
                        added_.emplace(token.id, token).second;
    QLORA_CHECK(is_new, FormatError, "[tokenizer] {}: the added token {} (id {}) is there twice",
                where, io::quote(token.content), token.id);
    vocab_size_ = std::max(vocab_size_, token.id + 1);
    if (token.normalized) {
      normalized_spellings.push_back(normalizer_.normalize(token.content));
      normalized.push_back(std::move(token));
    } else {
      raw_spellings.push_back(token.content);
      raw.push_back(std::move(token));
    }
  }
  raw_splitter_ = AddedTokenSplitter(std::move(raw), raw_spellings);
  normalized_splitter_ = AddedTokenSplitter(std::move(normalized), normalized_spellings);
}

std::string BpeTokenizer::id_to_piece(int32_t id) const {
  if (const auto added = added_.find(id); added != added_.end()) return added->second.content;
  return std::string(bpe_.vocabulary().piece(id));
}

std::optional<int32_t> BpeTokenizer::piece_to_id(std::string_view piece) const {
  if (const auto id = bpe_.vocabulary().find(piece)) return id;
  const auto added = added_ids_.find(std::string(piece));
  if (added == added_ids_.end()) return std::nullopt;
  return added->second;
}

bool BpeTokenizer::is_special(int32_t id) const {
  const auto added = added_.find(id);
  return added != added_.end() && added->second.special;
}

std::string BpeTokenizer::kind() const {
  if (unigram_) return "unigram";
  return pre_tokenizer_.is_byte_level() ? "byte-level BPE" : "BPE";
}

void BpeTokenizer::encode_valid(std::string_view text, const EncodeOptions& options,
                                std::vector<int32_t>& ids) const {
  using Part = AddedTokenSplitter::Part;
  thread_local PreTokenizer::Words words;
  const bool frames = options.add_special;
  if (frames) ids.insert(ids.end(), frame_.prefix.begin(), frame_.prefix.end());
  Bpe::Lease encoder = bpe_.encoder();
  std::vector<Part> raw_parts, parts;
  raw_splitter_.split(text, options.parse_special, raw_parts);
  for (const Part& raw : raw_parts) {
    if (raw.id >= 0) {
      ids.push_back(raw.id);
      continue;
    }
    const bool is_first = raw.text.data() == text.data();
    const bool continues = is_first && options.continues;
    std::string normal;
    std::string_view now = raw.text;
    if (!normalizer_.is_identity()) now = normal = normalizer_.normalize(raw.text, continues);
    parts.clear();
    normalized_splitter_.split(now, options.parse_special, parts);
    for (const Part& part : parts) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      const bool starts = is_first && part.text.data() == now.data();
      pre_tokenizer_.split(part.text, {.at_text_start = starts, .continues = starts && continues},
                           words);
      for (const std::string_view word : words.words) {
        if (unigram_) {
          unigram_->encode(bpe_.vocabulary(), word, ids);
        } else {
          encoder.encode(word, ids);
        }
      }
    }
  }
  if (frames) ids.insert(ids.end(), frame_.suffix.begin(), frame_.suffix.end());
}

std::string BpeTokenizer::decode_valid(std::span<const int32_t> ids, bool keep_special) const {
  std::vector<std::string> pieces;
  pieces.reserve(ids.size());
  for (const int32_t id : ids) {
    const bool is_hole = !bpe_.vocabulary().has(id) && !added_.contains(id);
    if (is_hole || (!keep_special && is_special(id))) continue;
    pieces.push_back(id_to_piece(id));
  }
  return decoder_.decode(std::move(pieces));
}

}  // namespace qlora::data
