#include "data/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>

#include "core/error.h"
#include "data/utf8.h"
#include "io/foreign_text.h"

namespace qlora::data {

struct SentencePieceTokenizer::Processors {
  sentencepiece::SentencePieceProcessor whole;       // for the start of a text
  sentencepiece::SentencePieceProcessor unprefixed;  // for what goes on from something
};

namespace {

// Appended to a ModelProto it overrides normalizer_spec.add_dummy_prefix with false: a message that
// comes twice is merged (protocol buffers, "last one wins").
constexpr std::string_view kNoDummyPrefix("\x1A\x02\x18\x00", 4);

void load(sentencepiece::SentencePieceProcessor& processor, const std::string& model,
          const std::string& where) {
  const auto status = processor.LoadFromSerializedProto(model);
  if (status.ok()) return;
  const std::string reason =
      status.error_message();  // of a file that does not parse, a source line
  QLORA_CHECK(reason.find(".cc(") != std::string::npos, FormatError,
              "[tokenizer] {} is no usable sentencepiece model, the library refuses it: {}; fetch "
              "the file again",
              where, io::quote(reason));
  throw FormatError(fmt::format(
      "[tokenizer] {} is no sentencepiece model, or a damaged one: its {} bytes, which begin with "
      "{}, do not parse; fetch the file again",
      where, model.size(), io::quote(std::string_view(model).substr(0, 16))));
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string_view model,
                                               const TokenizerConfig& config,
                                               const std::string& where)
    : processors_(std::make_unique<Processors>()), legacy_(config.legacy.value_or(false)) {
  std::string bytes(model);
  load(processors_->whole, bytes, where);
  bytes += kNoDummyPrefix;
  load(processors_->unprefixed, bytes, where);
  std::vector<int> bare, spaced;
  strips_spaces_ = processors_->unprefixed.Encode("a", &bare).ok() &&
                   processors_->unprefixed.Encode(" a", &spaced).ok() && bare == spaced;
  piece_count_ = processors_->whole.GetPieceSize();
  QLORA_CHECK(piece_count_ > 0 && piece_count_ <= kMaxTokenId, FormatError,
              "[tokenizer] {} has {} pieces, allowed 1 to {}", where, piece_count_, kMaxTokenId);
  index_added(config, where);

  const auto& sp = processors_->whole;
  const auto role = [&](const std::optional<std::string>& text, int own, const char* name) {
    if (!text) return own >= 0 ? std::optional<int32_t>(own) : std::nullopt;
    const auto id = piece_to_id(*text);
    QLORA_CHECK(text->empty() || id, FormatError,
                "[tokenizer] {}: the {} token {} is not in the vocabulary", where, name,
                io::quote(*text));
    return id;
  };
  special_ = {.bos = role(config.bos, sp.bos_id(), "bos"),
              .eos = role(config.eos, sp.eos_id(), "eos"),
              .pad = role(config.pad, sp.pad_id(), "pad"),
              .unk = role(config.unk, sp.unk_id(), "unk")};
  add_bos_ = special_.bos && config.add_bos.value_or(true);
  add_eos_ = special_.eos && config.add_eos.value_or(false);
  chat_templates_ = config.chat_templates;
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void SentencePieceTokenizer::index_added(const TokenizerConfig& config, const std::string& where) {
  std::vector<AddedToken> tokens;
  for (int32_t id = 0; id < piece_count_; ++id) {
    if (processors_->whole.IsControl(id) || processors_->whole.IsUnknown(id)) {
      tokens.push_back({.id = id, .content = processors_->whole.IdToPiece(id), .special = true});
    }
  }
  for (const AddedToken& token : config.added) {
    if (token.content.empty()) continue;
    const auto same = std::find_if(tokens.begin(), tokens.end(),
                                   [&](const AddedToken& t) { return t.id == token.id; });
    const bool fits =
        token.id >= piece_count_ || processors_->whole.IdToPiece(token.id) == token.content;
    QLORA_CHECK(fits && (same == tokens.end() || same->content == token.content), FormatError,
                "[tokenizer] {}: the added token {} has the id {}, which belongs to another piece",
                where, io::quote(token.content), token.id);
    if (same == tokens.end()) {
      tokens.push_back(token);
    } else {
      *same = token;
    }
  }
  vocab_size_ = piece_count_;
  std::vector<std::string> spellings;
  for (const AddedToken& token : tokens) {
    spellings.push_back(token.content);
    const bool is_new = added_ids_.emplace(token.content, token.id).second;
    QLORA_CHECK(is_new, FormatError, "[tokenizer] {}: the added token {} (id {}) is there twice",
                where, io::quote(token.content), token.id);
    added_.emplace(token.id, token);
    vocab_size_ = std::max(vocab_size_, token.id + 1);
  }
  splitter_ = AddedTokenSplitter(std::move(tokens), spellings);
}

std::string SentencePieceTokenizer::id_to_piece(int32_t id) const {
  if (const auto added = added_.find(id); added != added_.end()) return added->second.content;
  return id >= 0 && id < piece_count_ ? processors_->whole.IdToPiece(id) : std::string();
}

std::optional<int32_t> SentencePieceTokenizer::piece_to_id(std::string_view piece) const {
  if (const auto added = added_ids_.find(std::string(piece)); added != added_ids_.end()) {
    return added->second;
  }
  const int id = processors_->whole.PieceToId(piece);
  if (id < 0 || id >= piece_count_ || processors_->whole.IdToPiece(id) != piece) {
    return std::nullopt;
  }
  return id;
}

bool SentencePieceTokenizer::is_special(int32_t id) const {
  const auto added = added_.find(id);
  return added != added_.end() && added->second.special;
}

void SentencePieceTokenizer::encode_valid(std::string_view text, const EncodeOptions& options,
                                          std::vector<int32_t>& ids) const {
  if (options.add_special && add_bos_) ids.push_back(*special_.bos);
  std::vector<AddedTokenSplitter::Part> parts;
  splitter_.split(text, options.parse_special, parts);
  std::vector<int> own;
  for (const auto& part : parts) {
    if (part.id >= 0) {
      ids.push_back(part.id);
      continue;
    }
    const bool starts = part.text.data() == text.data();
    bool has_prefix = legacy_ ? !(starts && options.continues) : starts && !options.continues;
    // A model that strips spaces would lose the one before this word; its prefix stands for it.
    has_prefix = has_prefix || (strips_spaces_ && part.text.front() == ' ');
    const auto& processor = has_prefix ? processors_->whole : processors_->unprefixed;
    const auto status = processor.Encode(part.text, &own);
    QLORA_CHECK(status.ok(), ValueError, "[tokenizer] sentencepiece failed on {}: {}",
                io::quote(part.text), status.ToString());
    ids.insert(ids.end(), own.begin(), own.end());
  }
  if (options.add_special && add_eos_) ids.push_back(*special_.eos);
}

std::string SentencePieceTokenizer::decode_valid(std::span<const int32_t> ids,
                                                 bool keep_special) const {
  std::string text;
  std::vector<int> run;
  bool is_first = true;
  const auto flush = [&] {
    if (run.empty()) return;
    const auto& processor = is_first || legacy_ ? processors_->whole : processors_->unprefixed;
    std::string part;
    const auto status = processor.Decode(run, &part);
    QLORA_CHECK(status.ok(), ValueError, "[tokenizer] sentencepiece cannot decode: {}",
                status.ToString());
    text += part;
    run.clear();
    is_first = false;
  };
  for (const int32_t id : ids) {
    if (id < piece_count_ && !added_.contains(id)) {
      run.push_back(id);
      continue;
    }
    flush();
    if (!is_special(id) || keep_special) {
      text += id_to_piece(id);
      is_first = false;
    }
  }
  flush();
  return replace_invalid_utf8(text);
}

}  // namespace qlora::data
