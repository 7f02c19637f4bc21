#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/bpe_tokenizer.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/tokenizer_spec.h"
#include "data/utf8.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/gguf.h"
#include "io/mapped_file.h"

namespace qlora::data {

namespace fs = std::filesystem;

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 4);
  if (valid_utf8_prefix(text) == text.size()) {
    encode_valid(text, options, ids);
  } else {
    encode_valid(replace_invalid_utf8(text), options, ids);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool keep_special) const {
  for (const int32_t id : ids) {
    QLORA_CHECK(id >= 0 && id < vocab_size(), ValueError,
                "[tokenizer] the token id {} is outside the vocabulary, allowed 0 to {}", id,
                vocab_size() - 1);
  }
  return decode_valid(ids, keep_special);
}

const std::string& Tokenizer::chat_template() const {
  static const std::string kNone;
  const bool has_default = !chat_templates_.empty() && chat_templates_.front().name == "default";
  return has_default ? chat_templates_.front().text : kNone;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool keep_special)
    : tokenizer_(tokenizer), keep_special_(keep_special) {}

std::string StreamDecoder::push(int32_t id) {
  // The window begins with tokens whose text was shown: what a token looks like depends on those
  // before it.
  window_.push_back(id);
  const std::string text = tokenizer_.decode(window_, keep_special_);
  if (text.size() <= shown_text_.size() || text.ends_with(kReplacementCharacter)) return {};
  if (!text.starts_with(shown_text_)) return {};
  std::string fresh = text.substr(shown_text_.size());
  window_.erase(window_.begin(), window_.begin() + static_cast<int64_t>(shown_ids_));
  shown_ids_ = window_.size();
  shown_text_ = tokenizer_.decode(window_, keep_special_);
  return fresh;
}

std::string StreamDecoder::finish() {
  const std::string text = tokenizer_.decode(window_, keep_special_);
  const auto [end, shown_end] =
      std::mismatch(text.begin(), text.end(), shown_text_.begin(), shown_text_.end());
  std::string rest(end, text.end());
  window_.clear();
  shown_ids_ = 0;
  shown_text_.clear();
  return rest;
}

namespace {

constexpr uint64_t kMaxModelBytes = uint64_t{256} << 20;

enum class Source { kTokenizerJson, kSentencePiece, kGguf };

struct Found {
  Source source;
  fs::path file;
};

Found find_tokenizer(const fs::path& path) {
  QLORA_CHECK(fs::exists(path), IoError, "[tokenizer] {} does not exist", path.string());
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = path / "tokenizer.json";
    if (!fs::exists(file)) file = path / "tokenizer.model";
    QLORA_CHECK(fs::exists(file), IoError,
                "[tokenizer] {} holds no tokenizer; expected tokenizer.json or tokenizer.model",
                path.string());
  }
  if (file.extension() == ".json") return {Source::kTokenizerJson, file};
  if (file.extension() == ".model") return {Source::kSentencePiece, file};
  if (file.extension() == ".gguf") return {Source::kGguf, file};
  throw FormatError(
      fmt::format("[tokenizer] {} is of an unknown kind; known are a folder, a tokenizer.json, a "
                  "tokenizer.model and a .gguf file",
                  path.string()));
}

std::string gguf_model(const io::GgufReader& gguf) {
  const auto model = gguf.find_string("tokenizer.ggml.model");
  QLORA_CHECK(model, FormatError, "[tokenizer] {} holds no tokenizer (no tokenizer.ggml.model)",
              gguf.path().string());
  QLORA_CHECK(*model == "gpt2" || *model == "llama", FormatError,
              "[tokenizer] {}: tokenizer.ggml.model is {}, which is not supported; known are gpt2 "
              "and llama",
              gguf.path().string(), io::quote(*model));
  return std::string(*model);
}

/// tokenizer_config.json of a GGUF file's tokenizer.
std::string config_text(const TokenizerConfig& config, bool add_bos, bool add_eos) {
  nlohmann::ordered_json root = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                 {"add_bos_token", add_bos},
                                 {"add_eos_token", add_eos},
                                 {"clean_up_tokenization_spaces", false}};
  const std::pair<const char*, const std::optional<std::string>&> roles[] = {
      {"bos_token", config.bos},
      {"eos_token", config.eos},
      {"pad_token", config.pad},
      {"unk_token", config.unk}};
  for (const auto& [key, text] : roles) {
    if (text) root[key] = *text;
  }
  if (config.chat_templates.size() == 1) {
    root["chat_template"] = config.chat_templates.front().text;
  } else {
    for (const NamedTemplate& named : config.chat_templates) {
      root["chat_template"].push_back({{"name", named.name}, {"template", named.text}});
    }
  }
  return root.dump(2);
}

}  // namespace

std::unique_ptr<const Tokenizer> load_tokenizer(const fs::path& path) {
  const Found found = find_tokenizer(path);
  const std::string where = found.file.string();
  if (found.source == Source::kGguf) {
    const io::GgufReader gguf(found.file);
    if (gguf_model(gguf) == "gpt2") {
      return std::make_unique<BpeTokenizer>(read_gguf_bpe(gguf), read_gguf_config(gguf), where);
    }
    return std::make_unique<SentencePieceTokenizer>(read_gguf_sentencepiece(gguf),
                                                    read_gguf_config(gguf), where);
  }
  const TokenizerConfig config = read_tokenizer_config(found.file.parent_path());
  const io::MappedFile file(found.file);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  QLORA_CHECK(text.size() <= kMaxModelBytes, FormatError,
              "[tokenizer] {} has {} bytes, allowed at most {}", where, text.size(),
              kMaxModelBytes);
  if (found.source == Source::kTokenizerJson) {
    return std::make_unique<BpeTokenizer>(read_tokenizer_json(text, where), config, where);
  }
  return std::make_unique<SentencePieceTokenizer>(text, config, where);
}

std::vector<std::string> save_tokenizer_files(const fs::path& source, const fs::path& folder) {
  const Found found = find_tokenizer(source);
  std::vector<std::string> written;
  const auto write = [&](const std::string& name, std::string_view content) {
    io::write_file_atomic(folder / name, content);
    written.push_back(name);
  };
  if (found.source != Source::kGguf) {
    for (const char* name :
         {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "chat_template.jinja"}) {
      const fs::path file = found.file.parent_path() / name;
      if (fs::exists(file)) write(name, io::read_file(file, kMaxModelBytes));
    }
    const fs::path more = found.file.parent_path() / kAdditionalTemplates;
    if (!fs::is_directory(more)) return written;
    fs::create_directories(folder / kAdditionalTemplates);
    for (const auto& entry : fs::directory_iterator(more)) {
      if (entry.path().extension() != ".jinja") continue;
      write(std::string(kAdditionalTemplates) + "/" + entry.path().filename().string(),
            io::read_file(entry.path(), kMaxModelBytes));
    }
    return written;
  }
  const io::GgufReader gguf(found.file);
  const TokenizerConfig config = read_gguf_config(gguf);
  const auto tokenizer = load_tokenizer(found.file);
  if (gguf_model(gguf) == "gpt2") {
    write("tokenizer.json", write_tokenizer_json(read_gguf_bpe(gguf)));
  } else {
    write("tokenizer.model", read_gguf_sentencepiece(gguf));
  }
  write("tokenizer_config.json", config_text(config, tokenizer->add_bos(), tokenizer->add_eos()));
  return written;
}

}  // namespace qlora::data
