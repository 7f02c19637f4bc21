#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstring>

#include "core/error.h"
#include "data/tokenizer_spec.h"
#include "io/foreign_text.h"
#include "io/gguf.h"

namespace qlora::data {
namespace {

using nlohmann::json;

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr const char* kTekkenPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
    R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// How texts are cut, by tokenizer.ggml.pre.
struct PreKind {
  const char* name;
  std::array<const char*, 3> patterns;  // before ByteLevel, in order
  bool individual_digits = false;       // before the patterns
  bool gpt2_pattern = false;            // ByteLevel's own, at last
  bool ignore_merges = false;
  bool nfc = false;
  bool add_bos = false;  // where the file does not say
};

constexpr PreKind kPreKinds[] = {
    {.name = "gpt-2", .patterns = {}, .gpt2_pattern = true},
    {.name = "smollm", .patterns = {}, .individual_digits = true, .gpt2_pattern = true},
    {.name = "starcoder", .patterns = {}, .individual_digits = true, .gpt2_pattern = true},
    {.name = "llama-bpe", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
    {.name = "llama3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
    {.name = "qwen2", .patterns = {kQwen2Pattern}, .nfc = true},
    {.name = "tekken", .patterns = {kTekkenPattern}, .ignore_merges = true, .add_bos = true},
    {.name = "default",
     .patterns = {R"([\p{P}\$\+<=>\^~\|]+)", nullptr, R"([0-9][0-9][0-9])"},
     .gpt2_pattern = true},
};

const PreKind& find_pre_kind(const io::GgufReader& gguf) {
  const std::string name(gguf.find_string("tokenizer.ggml.pre").value_or("default"));
  std::string known;
  for (const PreKind& kind : kPreKinds) {
    if (name == kind.name) return kind;
    known += known.empty() ? kind.name : fmt::format(", {}", kind.name);
  }
  throw FormatError(
      fmt::format("[tokenizer] {}: tokenizer.ggml.pre is {}, which is not supported; known are {}. "
                  "Use the model's Hugging Face folder instead",
                  gguf.path().string(), io::quote(name), known));
}

json split_json(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}

json pre_tokenizer_json(const PreKind& kind) {
  json steps = json::array();
  if (kind.individual_digits) steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  const bool is_default = std::string_view(kind.name) == "default";
  if (is_default) {  // llama.cpp cuts at punctuation, words, numbers, and digits by three
    steps.push_back(split_json(kind.patterns[0]));
    steps.push_back(
        split_json(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))"));
    steps.push_back(split_json(R"(\p{N}+)"));
    steps.push_back(split_json(kind.patterns[2]));
  } else if (kind.patterns[0]) {
    steps.push_back(split_json(kind.patterns[0]));
  }
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", kind.gpt2_pattern && !is_default}});
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

/// The steps of a pre-tokenizer without what changes nothing: nesting, offsets.
void collect_steps(const json& description, json& steps) {
  if (!description.is_object()) return;
  if (description.value("type", "") == "Sequence") {
    for (const json& step : description.at("pretokenizers")) collect_steps(step, steps);
    return;
  }
  json step = description;
  step.erase("trim_offsets");
  if (step.value("type", "") == "ByteLevel" && !step.contains("use_regex")) {
    step["use_regex"] = true;
  }
  steps.push_back(std::move(step));
}

bool is_nfc(const json& normalizer) {
  return normalizer == json{{"type", "NFC"}} ||
         normalizer == json{{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}}}};
}

std::vector<int64_t> piece_types(const io::GgufReader& gguf, size_t count) {
  if (!gguf.has("tokenizer.ggml.token_type")) {
    return std::vector<int64_t>(count, static_cast<int64_t>(PieceType::kNormal));
  }
  std::vector<int64_t> types = gguf.integers("tokenizer.ggml.token_type");
  QLORA_CHECK(types.size() == count, FormatError,
              "[tokenizer] {}: tokenizer.ggml.token_type has {} entries for {} tokens",
              gguf.path().string(), types.size(), count);
  for (const int64_t type : types) {
    QLORA_CHECK(type >= 1 && type <= 6, FormatError,
                "[tokenizer] {}: a token has the type {}, allowed 1 to 6", gguf.path().string(),
                type);
  }
  return types;
}

std::vector<std::string_view> read_pieces(const io::GgufReader& gguf) {
  auto pieces = gguf.strings("tokenizer.ggml.tokens");
  QLORA_CHECK(!pieces.empty() && pieces.size() <= static_cast<size_t>(kMaxTokenId), FormatError,
              "[tokenizer] {}: the vocabulary has {} tokens, allowed 1 to {}", gguf.path().string(),
              pieces.size(), kMaxTokenId);
  for (size_t i = 0; i < pieces.size(); ++i) {
    QLORA_CHECK(io::is_utf8(pieces[i]), FormatError, "[tokenizer] {}: token {} is not UTF-8: {}",
                gguf.path().string(), i, io::quote(pieces[i]));
  }
  return pieces;
}

void read_merges(const io::GgufReader& gguf, BpeSpec& spec) {
  const auto merges = gguf.strings("tokenizer.ggml.merges");
  spec.rules.merges.reserve(merges.size());
  std::string both;
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    const bool has_two = space != std::string_view::npos && space + 1 < merges[i].size();
    const auto left = has_two ? merges[i].substr(0, space) : std::string_view();
    const auto right = has_two ? merges[i].substr(space + 1) : std::string_view();
    both.assign(left).append(right);
    const auto left_id = spec.vocabulary.find(left), right_id = spec.vocabulary.find(right),
               both_id = spec.vocabulary.find(both);
    QLORA_CHECK(has_two && left_id && right_id && both_id, FormatError,
                "[tokenizer] {}: merge {}, {}, is not two pieces whose union is a piece",
                gguf.path().string(), i, io::quote(merges[i]));
    spec.rules.merges.push_back({*left_id, *right_id, *both_id});
  }
}

}  // namespace

std::optional<std::string> gguf_pre_name(const BpeSpec& spec) {
  if (!spec.normalizer.is_null() && !is_nfc(spec.normalizer)) return std::nullopt;
  json wanted = json::array();
  collect_steps(spec.pre_tokenizer, wanted);
  for (const PreKind& kind : kPreKinds) {
    json steps = json::array();
    collect_steps(pre_tokenizer_json(kind), steps);
    if (steps == wanted && kind.ignore_merges == spec.rules.ignore_merges &&
        kind.nfc == is_nfc(spec.normalizer)) {
      return kind.name;
    }
  }
  return std::nullopt;
}

TokenizerConfig read_gguf_config(const io::GgufReader& gguf) {
  TokenizerConfig config;
  const auto pieces = gguf.strings("tokenizer.ggml.tokens");
  const auto token = [&](const char* key, std::optional<std::string>& text) {
    const auto id = gguf.find_integer(key);
    if (!id) return;
    QLORA_CHECK(*id >= 0 && *id < static_cast<int64_t>(pieces.size()), FormatError,
                "[tokenizer] {}: {} is {}, outside the vocabulary of {} tokens",
                gguf.path().string(), key, *id, pieces.size());
    text = std::string(pieces[static_cast<size_t>(*id)]);
  };
  token("tokenizer.ggml.bos_token_id", config.bos);
  token("tokenizer.ggml.eos_token_id", config.eos);
  token("tokenizer.ggml.padding_token_id", config.pad);
  token("tokenizer.ggml.unknown_token_id", config.unk);
  config.add_bos = gguf.find_boolean("tokenizer.ggml.add_bos_token");
  config.add_eos = gguf.find_boolean("tokenizer.ggml.add_eos_token");
  if (const auto text = gguf.find_string("tokenizer.chat_template")) {
    config.chat_templates.push_back({"default", std::string(*text)});
  }
  const bool has_more = gguf.find("tokenizer.chat_templates") != nullptr;
  for (const auto name :
       has_more ? gguf.strings("tokenizer.chat_templates") : std::vector<std::string_view>()) {
    const auto text = gguf.find_string("tokenizer.chat_template." + std::string(name));
    if (text) config.chat_templates.push_back({std::string(name), std::string(*text)});
  }
  return config;
}

BpeSpec read_gguf_bpe(const io::GgufReader& gguf) {
  const PreKind& kind = find_pre_kind(gguf);
  const auto pieces = read_pieces(gguf);
  const auto types = piece_types(gguf, pieces.size());
  BpeSpec spec;
  size_t bytes = 0;
  for (const auto piece : pieces) bytes += piece.size();
  spec.vocabulary.reserve(pieces.size(), bytes);
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    QLORA_CHECK(spec.vocabulary.add(pieces[i], id), FormatError,
                "[tokenizer] {}: the token {} is in the vocabulary twice, at {} and {}",
                gguf.path().string(), io::quote(pieces[i]), *spec.vocabulary.find(pieces[i]), i);
    const bool is_special = types[i] == static_cast<int64_t>(PieceType::kControl);
    if (is_special || types[i] == static_cast<int64_t>(PieceType::kUserDefined)) {
      spec.added.push_back({.id = id, .content = std::string(pieces[i]), .special = is_special});
    }
  }
  read_merges(gguf, spec);
  spec.rules.ignore_merges = kind.ignore_merges;
  if (kind.nfc) spec.normalizer = {{"type", "NFC"}};
  spec.pre_tokenizer = pre_tokenizer_json(kind);
  spec.decoder = {{"type", "ByteLevel"},
                  {"add_prefix_space", true},
                  {"trim_offsets", true},
                  {"use_regex", true}};

  const TokenizerConfig config = read_gguf_config(gguf);
  json single = json::array(), tokens = json::object();
  const auto special = [&](const std::optional<std::string>& text) {
    const auto id = spec.vocabulary.find(*text);
    single.push_back({{"SpecialToken", {{"id", *text}, {"type_id", 0}}}});
    tokens[*text] = {{"id", *text}, {"ids", json::array({*id})}, {"tokens", json::array({*text})}};
  };
  if (config.add_bos.value_or(kind.add_bos) && config.bos) special(config.bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (config.add_eos.value_or(false) && config.eos) special(config.eos);
  if (!tokens.empty()) {
    json pair = single;
    pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 1}}}});
    spec.post_processor = {{"type", "TemplateProcessing"},
                           {"single", single},
                           {"pair", pair},
                           {"special_tokens", tokens}};
  }
  return spec;
}

namespace {

// Wire format of protocol buffers: a number before each member, then its value.
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}
void put_number(std::string& out, int member, uint64_t value) {
  put_varint(out, static_cast<uint64_t>(member) << 3);
  put_varint(out, value);
}
void put_text(std::string& out, int member, std::string_view text) {
  put_varint(out, static_cast<uint64_t>(member) << 3 | 2);
  put_varint(out, text.size());
  out += text;
}
void put_float(std::string& out, int member, float value) {
  put_varint(out, static_cast<uint64_t>(member) << 3 | 5);
  char bytes[4];
  std::memcpy(bytes, &value, 4);
  out.append(bytes, 4);
}

}  // namespace

std::string read_gguf_sentencepiece(const io::GgufReader& gguf) {
  const auto pieces = read_pieces(gguf);
  const auto types = piece_types(gguf, pieces.size());
  const std::vector<float> scores = gguf.numbers("tokenizer.ggml.scores");
  QLORA_CHECK(scores.size() == pieces.size(), FormatError,
              "[tokenizer] {}: tokenizer.ggml.scores has {} entries for {} tokens",
              gguf.path().string(), scores.size(), pieces.size());
  // Member numbers: sentencepiece_model.proto.
  std::string model;
  bool has_bytes = false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::string piece;
    put_text(piece, 1, pieces[i]);
    put_float(piece, 2, scores[i]);
    put_number(piece, 3, static_cast<uint64_t>(types[i]));
    put_text(model, 1, piece);
    has_bytes = has_bytes || types[i] == static_cast<int64_t>(PieceType::kByte);
  }
  constexpr int kBpe = 2;
  std::string trainer;
  put_number(trainer, 3, kBpe);
  put_number(trainer, 4, pieces.size());
  put_number(trainer, 35, has_bytes);
  put_text(model, 2, trainer);
  std::string normalizer;
  put_text(normalizer, 1, "identity");
  put_number(normalizer, 3, gguf.find_boolean("tokenizer.ggml.add_space_prefix").value_or(true));
  put_number(normalizer, 4,
             gguf.find_boolean("tokenizer.ggml.remove_extra_whitespaces").value_or(false));
  put_number(normalizer, 5, 1);
  put_text(model, 3, normalizer);
  return model;
}

}  // namespace qlora::data
