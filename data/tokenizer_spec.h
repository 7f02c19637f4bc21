#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/tokenizer.h"
#include "data/unigram.h"

namespace qlora::io {
class GgufReader;
}

namespace qlora::data {

/// Largest token id that is accepted: no allocation follows from a file's word alone.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 22) - 1;

/// What the small files beside a tokenizer say.
struct TokenizerConfig {
  std::optional<std::string> bos, eos, pad, unk;  // as texts
  std::optional<bool> add_bos, add_eos, legacy;
  std::vector<NamedTemplate> chat_templates;  // "default" first
  std::vector<AddedToken> added;              // of added_tokens_decoder and added_tokens.json
};

/// Where transformers keeps the chat templates with other names than "default".
inline constexpr const char* kAdditionalTemplates = "additional_chat_templates";

/// Reads tokenizer_config.json, special_tokens_map.json, added_tokens.json, chat_template.jinja and
/// the additional chat templates of a folder, as far as they are there.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

/// A tokenizer of words in parts, whatever file it came from: BPE over bytes or characters, or,
/// where there are scores, Unigram.
struct BpeSpec {
  Vocabulary vocabulary;
  BpeRules rules;
  std::optional<Unigram::Rules> unigram;
  std::vector<AddedToken> added;
  nlohmann::json normalizer, pre_tokenizer, post_processor, decoder;  // as in tokenizer.json
};

/// Reads the text of a tokenizer.json in one pass, without a tree of its vocabulary and merges.
///   where     names the file in messages
///   throws    FormatError for damage, a model other than BPE and Unigram, or what this program
///   does not know
BpeSpec read_tokenizer_json(std::string_view text, const std::string& where);

/// The text of a tokenizer.json with the same meaning.
std::string write_tokenizer_json(const BpeSpec& spec);

/// What follows and precedes a text: the "post_processor", as far as it concerns one text.
struct TextFrame {
  std::vector<int32_t> prefix, suffix;
};
TextFrame read_post_processor(const nlohmann::json& description, const std::string& where);

/// tokenizer.ggml.token_type; sentencepiece numbers its piece types alike. On disk: do not
/// renumber.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// tokenizer.ggml.* of a GGUF file with the model "gpt2".
BpeSpec read_gguf_bpe(const io::GgufReader& gguf);
/// What tokenizer.ggml.pre has to say for a GGUF file to cut texts as spec does; nothing where no
/// known name does.
std::optional<std::string> gguf_pre_name(const BpeSpec& spec);
/// The special tokens and the chat template of any GGUF file.
TokenizerConfig read_gguf_config(const io::GgufReader& gguf);
/// tokenizer.ggml.* with the model "llama", as the content of a sentencepiece tokenizer.model.
std::string read_gguf_sentencepiece(const io::GgufReader& gguf);

}  // namespace qlora::data
