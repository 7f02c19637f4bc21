#include "exporter/gguf_tokenizer.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"
#include "data/tokenizer_spec.h"
#include "exporter/sentencepiece_facts.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/gguf.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using data::PieceType;

constexpr uint64_t kMaxTokenizerBytes = uint64_t{256} << 20;

/// Pieces by id; holes and the ids that only the model has are unused pieces.
struct Pieces {
  std::vector<std::string> texts;
  std::vector<int32_t> types;  // PieceType
  std::vector<float> scores;

  explicit Pieces(int64_t count)
      : texts(static_cast<size_t>(count)),
        types(static_cast<size_t>(count), static_cast<int32_t>(PieceType::kUnused)),
        scores(static_cast<size_t>(count), 0.0f) {
    for (int64_t i = 0; i < count; ++i) texts[static_cast<size_t>(i)] = fmt::format("[PAD{}]", i);
  }
  void set(int64_t id, std::string_view text, PieceType type) {
    texts[static_cast<size_t>(id)] = text;
    set_type(id, type);
  }
  void set_type(int64_t id, PieceType type) {
    types[static_cast<size_t>(id)] = static_cast<int32_t>(type);
  }
};

void check_size(int64_t pieces, int64_t vocab_size, const fs::path& source) {
  QLORA_CHECK(pieces <= vocab_size, FormatError,
              "[export] {}: the tokenizer has {} ids, the model {}; they do not belong together",
              source.string(), pieces, vocab_size);
}

void add_roles(const data::Tokenizer& tokenizer, io::GgufMetadata& metadata) {
  const data::SpecialIds& ids = tokenizer.special();
  const std::pair<const char*, std::optional<int32_t>> kRoles[] = {
      {"tokenizer.ggml.bos_token_id", ids.bos},
      {"tokenizer.ggml.eos_token_id", ids.eos},
      {"tokenizer.ggml.unknown_token_id", ids.unk},
      {"tokenizer.ggml.padding_token_id", ids.pad}};
  for (const auto& [key, id] : kRoles) {
    if (id) metadata.add(key, static_cast<uint32_t>(*id));
  }
  metadata.add("tokenizer.ggml.add_bos_token", tokenizer.add_bos());
  metadata.add("tokenizer.ggml.add_eos_token", tokenizer.add_eos());
}

void add_templates(const std::vector<data::NamedTemplate>& templates, io::GgufMetadata& metadata) {
  std::vector<std::string> further;  // llama.cpp keeps the names beside the default one's text
  for (const data::NamedTemplate& named : templates) {
    if (named.name == "default") {
      metadata.add("tokenizer.chat_template", named.text);
    } else {
      further.push_back(named.name);
      metadata.add("tokenizer.chat_template." + named.name, named.text);
    }
  }
  if (!further.empty()) {
    metadata.add("tokenizer.chat_templates", std::span<const std::string>(further));
  }
}

void add_pieces(const Pieces& pieces, bool has_scores, io::GgufMetadata& metadata) {
  metadata.add("tokenizer.ggml.tokens", std::span<const std::string>(pieces.texts));
  if (has_scores) metadata.add("tokenizer.ggml.scores", std::span<const float>(pieces.scores));
  metadata.add("tokenizer.ggml.token_type", std::span<const int32_t>(pieces.types));
}

void copy_gguf(const fs::path& source, int64_t vocab_size, bool with_templates,
               io::GgufMetadata& metadata) {
  const io::GgufReader gguf(source);
  check_size(static_cast<int64_t>(gguf.strings("tokenizer.ggml.tokens").size()), vocab_size,
             source);
  for (const io::GgufValue& value : gguf.values()) {
    const bool is_template = value.key.starts_with("tokenizer.chat_template");
    if (value.key.starts_with("tokenizer.") && (with_templates || !is_template)) {
      metadata.copy(value);
    }
  }
}

/// What both forms of a tokenizer.json share: the vocabulary, then the added tokens over it.
Pieces pieces_of(const data::BpeSpec& spec, int64_t vocab_size, const fs::path& source) {
  check_size(spec.vocabulary.size(), vocab_size, source);
  Pieces pieces(vocab_size);
  for (int32_t id = 0; id < spec.vocabulary.size(); ++id) {
    if (spec.vocabulary.has(id)) pieces.set(id, spec.vocabulary.piece(id), PieceType::kNormal);
  }
  for (const data::AddedToken& token : spec.added) {
    check_size(token.id + 1, vocab_size, source);
    pieces.set(token.id, token.content,
               token.special ? PieceType::kControl : PieceType::kUserDefined);
  }
  return pieces;
}

void add_byte_level(const data::BpeSpec& spec, const Pieces& pieces, const fs::path& source,
                    io::GgufMetadata& metadata) {
  const auto pre = data::gguf_pre_name(spec);
  QLORA_CHECK(pre, FormatError,
              "[export] {}: llama.cpp has no name that is known here for how this tokenizer cuts "
              "texts (pre_tokenizer {}); GGUF cannot be written, the other formats can",
              source.string(), spec.pre_tokenizer.dump().substr(0, 200));
  std::vector<std::string> merges;
  merges.reserve(spec.rules.merges.size());
  for (const auto& merge : spec.rules.merges) {
    const std::string_view left = spec.vocabulary.piece(merge.left),
                           right = spec.vocabulary.piece(merge.right);
    QLORA_CHECK(left.find(' ') == left.npos && right.find(' ') == right.npos, FormatError,
                "[export] {}: a merge of {} and {} holds a space, which GGUF separates them by",
                source.string(), io::quote(left), io::quote(right));
    merges.push_back(fmt::format("{} {}", left, right));
  }
  metadata.add("tokenizer.ggml.model", "gpt2");
  metadata.add("tokenizer.ggml.pre", *pre);
  add_pieces(pieces, false, metadata);
  metadata.add("tokenizer.ggml.merges", std::span<const std::string>(merges));
}

/// Merges become scores: sentencepiece joins the pair whose union scores highest.
void add_byte_fallback(const data::BpeSpec& spec, Pieces pieces, io::GgufMetadata& metadata) {
  for (size_t rank = spec.rules.merges.size(); rank-- > 0;) {
    pieces.scores[static_cast<size_t>(spec.rules.merges[rank].result)] =
        -static_cast<float>(rank + 1);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto id = spec.vocabulary.find(fmt::format("<0x{:02X}>", byte));
    if (id) pieces.set_type(*id, PieceType::kByte);
  }
  if (spec.rules.unk) pieces.set_type(*spec.rules.unk, PieceType::kUnknown);
  const bool prepends = spec.normalizer.dump().find("Prepend") != std::string::npos ||
                        spec.pre_tokenizer.dump().find("Metaspace") != std::string::npos;
  metadata.add("tokenizer.ggml.model", "llama");
  metadata.add("tokenizer.ggml.pre", "default");
  add_pieces(pieces, true, metadata);
  metadata.add("tokenizer.ggml.add_space_prefix", prepends);
}

void add_sentencepiece(const fs::path& file, const data::TokenizerConfig& config,
                       int64_t vocab_size, io::GgufMetadata& metadata) {
  const std::string bytes = io::read_file(file, kMaxTokenizerBytes);
  const SentencePieceFacts facts = read_sentencepiece_facts(bytes, file.string());
  QLORA_CHECK(facts.is_bpe, FormatError,
              "[export] {} is no BPE model (unigram, word or char), which llama.cpp's Llama models "
              "do not have; GGUF cannot be written, the other formats can",
              file.string());
  sentencepiece::SentencePieceProcessor model;
  const auto status = model.LoadFromSerializedProto(bytes);
  QLORA_CHECK(status.ok(), FormatError, "[export] {} is not a usable sentencepiece model: {}",
              file.string(), status.ToString());
  check_size(model.GetPieceSize(), vocab_size, file);
  Pieces pieces(vocab_size);
  for (int id = 0; id < model.GetPieceSize(); ++id) {
    const PieceType type = model.IsUnknown(id)         ? PieceType::kUnknown
                           : model.IsControl(id)       ? PieceType::kControl
                           : model.IsByte(id)          ? PieceType::kByte
                           : model.IsUnused(id)        ? PieceType::kUnused
                           : facts.is_user_defined(id) ? PieceType::kUserDefined
                                                       : PieceType::kNormal;
    pieces.set(id, model.IdToPiece(id), type);
    pieces.scores[static_cast<size_t>(id)] = model.GetScore(id);
  }
  for (const data::AddedToken& token : config.added) {
    if (token.content.empty()) continue;
    check_size(token.id + 1, vocab_size, file);
    if (token.id < model.GetPieceSize()) continue;
    pieces.set(token.id, token.content,
               token.special ? PieceType::kControl : PieceType::kUserDefined);
  }
  metadata.add("tokenizer.ggml.model", "llama");
  metadata.add("tokenizer.ggml.pre", "default");
  add_pieces(pieces, true, metadata);
  metadata.add("tokenizer.ggml.add_space_prefix", facts.add_dummy_prefix);
  metadata.add("tokenizer.ggml.remove_extra_whitespaces", facts.remove_extra_whitespaces);
}

/// Whether a space follows a special token is for each reader of sentencepiece models to decide:
/// there, special tokens stand alone.
std::vector<std::string> probe_texts(const data::Tokenizer& tokenizer, bool is_sentencepiece) {
  std::vector<std::string> texts = {"",
                                    " ",
                                    "Hello, world! It's 2024 and we'll've 1234567 things.",
                                    "  two  spaces\tand\ttabs\n\n\nnew lines \r\n end  ",
                                    "def f(x):\n    return x**2 + 3.14e-10  # comment\n",
                                    "안녕하세요 세계, 의료 기록 2024년 3월",
                                    "Ünïcödé e\u0301 ﬁ 中文字符 日本語 العربية עברית हिन्दी",
                                    "👩‍👩‍👧‍👦 🇰🇷 \U0001F600\U0001F600",
                                    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0000000000 !!!!!!!!!!",
                                    "CamelCaseWords and_snake_case, don't; can't; I'M YOU'RE"};
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.is_special(id)) continue;
    const std::string piece = tokenizer.id_to_piece(id);
    texts.push_back(is_sentencepiece ? piece : "a " + piece + " b");
  }
  return texts;
}

}  // namespace

fs::path tokenizer_file(const fs::path& source) {
  if (!fs::is_directory(source)) return source;
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (fs::exists(source / name)) return source / name;
  }
  std::vector<fs::path> gguf;
  for (const auto& item : fs::directory_iterator(source)) {
    if (item.path().extension() == ".gguf") gguf.push_back(item.path());
  }
  QLORA_CHECK(gguf.size() == 1, IoError,
              "[export] {} holds no tokenizer; expected tokenizer.json, tokenizer.model or one "
              ".gguf file",
              source.string());
  return gguf.front();
}

void add_gguf_tokenizer(const fs::path& source, int64_t vocab_size, io::GgufMetadata& metadata,
                        const std::vector<data::NamedTemplate>& templates) {
  const fs::path file = tokenizer_file(source);
  if (file.extension() == ".gguf") {
    copy_gguf(file, vocab_size, templates.empty(), metadata);
    return add_templates(templates, metadata);
  }
  const auto tokenizer = data::load_tokenizer(file);
  // Where both files are there, the older one has the scores that llama.cpp wants.
  const fs::path model = file.parent_path() / "tokenizer.model";
  if (file.extension() == ".model" || fs::exists(model)) {
    add_sentencepiece(fs::exists(model) ? model : file,
                      data::read_tokenizer_config(file.parent_path()), vocab_size, metadata);
  } else {
    const data::BpeSpec spec =
        data::read_tokenizer_json(io::read_file(file, kMaxTokenizerBytes), file.string());
    Pieces pieces = pieces_of(spec, vocab_size, source);
    if (spec.rules.byte_fallback) {
      add_byte_fallback(spec, std::move(pieces), metadata);
    } else {
      add_byte_level(spec, pieces, source, metadata);
    }
  }
  add_roles(*tokenizer, metadata);
  add_templates(templates.empty() ? tokenizer->chat_templates() : templates, metadata);
}

void check_gguf_tokenizer(const fs::path& source, const io::GgufMetadata& metadata,
                          const fs::path& folder) {
  const fs::path file = folder / ".tokenizer-check.gguf";
  struct Remove {
    fs::path file;
    ~Remove() {
      std::error_code ignored;
      fs::remove(file, ignored);
    }
  } remove{file};
  io::GgufWriter(file, metadata, {}).commit();
  const auto expected = data::load_tokenizer(tokenizer_file(source)),
             written = data::load_tokenizer(file);
  const bool is_sentencepiece = written->kind() == "sentencepiece";
  for (const std::string& text : probe_texts(*expected, is_sentencepiece)) {
    QLORA_CHECK(expected->encode(text) == written->encode(text), FormatError,
                "[export] {}: as GGUF the tokenizer gives other ids for the text {}; GGUF cannot "
                "be written, the other formats can",
                source.string(), io::quote(text));
  }
  QLORA_CHECK(expected->special().eos == written->special().eos &&
                  expected->special().bos == written->special().bos,
              FormatError, "[export] {}: as GGUF the tokenizer has another bos or eos",
              source.string());
}

}  // namespace qlora::exporter
