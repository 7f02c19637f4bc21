// A tokenizer's files: which are read, which are written.
#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/bpe_tokenizer.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/tokenizer.h"
#include "data/tokenizer_spec.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"
#include "io/file_kind.h"
#include "io/foreign_text.h"
#include "io/gguf.h"
#include "io/mapped_file.h"
#include "io/strict_json.h"

namespace qlora::data {

namespace fs = std::filesystem;

namespace {

constexpr uint64_t kMaxModelBytes = uint64_t{256} << 20;

enum class Source { kTokenizerJson, kSentencePiece, kGguf };

struct Found {
  Source source;
  fs::path file;
};

Found find_tokenizer(const fs::path& path) {
  io::check_model_path(path, "tokenizer");
  fs::path file = path;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    file = path / "tokenizer.json";
    if (!io::is_present(file)) file = path / "tokenizer.model";
    QLORA_CHECK(io::is_present(file), IoError,
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

/// "chat_template" of a tokenizer_config.json: the default one alone is a text.
nlohmann::ordered_json templates_json(const std::vector<NamedTemplate>& templates) {
  if (templates.size() == 1 && templates.front().name == "default") return templates.front().text;
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const NamedTemplate& named : templates) {
    list.push_back({{"name", named.name}, {"template", named.text}});
  }
  return list;
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
  if (!config.chat_templates.empty()) root["chat_template"] = templates_json(config.chat_templates);
  return root.dump(2);
}

/// Writes the files of a tokenizer into one folder, and remembers their names.
class TokenizerFiles {
 public:
  explicit TokenizerFiles(const fs::path& folder) : folder_(folder) {}

  /// What transformers' folders hold, `with_templates` or without its templates' own files.
  void copy(const fs::path& from, bool with_templates) {
    for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json",
                             "special_tokens_map.json", "added_tokens.json"}) {
      copy_file(from, name);
    }
    if (!with_templates) return;
    copy_file(from, "chat_template.jinja");
    for (const fs::path& file : io::entries_of(from / kAdditionalTemplates)) {
      if (file.extension() != ".jinja") continue;
      copy_file(from, std::string(kAdditionalTemplates) + "/" + file.filename().string());
    }
  }

  void write_gguf_tokenizer(const fs::path& file) {
    const io::GgufReader gguf(file);
    const TokenizerConfig config = read_gguf_config(gguf);
    const auto tokenizer = load_tokenizer(file);
    if (gguf_model(gguf) == "gpt2") {
      write("tokenizer.json", write_tokenizer_json(read_gguf_bpe(gguf)));
    } else {
      write("tokenizer.model", read_gguf_sentencepiece(gguf));
    }
    write("tokenizer_config.json", config_text(config, tokenizer->add_bos(), tokenizer->add_eos()));
  }

  /// In both forms: older readers know tokenizer_config.json alone, newer ones prefer the files.
  void write_templates(const std::vector<NamedTemplate>& templates) {
    const fs::path path = folder_ / "tokenizer_config.json";
    auto config = nlohmann::ordered_json::object();
    if (io::is_present(path)) {
      config = io::parse_strict_ordered_json(io::read_file(path, kMaxModelBytes), path.string());
    }
    config["chat_template"] = templates_json(templates);
    write("tokenizer_config.json", config.dump(2) + "\n");
    for (const NamedTemplate& named : templates) {
      if (named.name == "default") {
        write("chat_template.jinja", named.text);
        continue;
      }
      const bool is_plain = std::all_of(named.name.begin(), named.name.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '_' || c == '-';
      });
      if (!is_plain || named.name.empty()) continue;  // a foreign text, no path: the list has it
      write(fmt::format("{}/{}.jinja", kAdditionalTemplates, named.name), named.text);
    }
  }

  std::vector<std::string> names() && { return std::move(names_); }

 private:
  void copy_file(const fs::path& from, const std::string& name) {
    if (io::is_present(from / name)) write(name, io::read_file(from / name, kMaxModelBytes));
  }
  void write(const std::string& name, std::string_view content) {
    fs::create_directories((folder_ / name).parent_path());
    io::write_file_atomic(folder_ / name, content);
    if (std::find(names_.begin(), names_.end(), name) == names_.end()) names_.push_back(name);
  }

  fs::path folder_;
  std::vector<std::string> names_;
};

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
  QLORA_CHECK(!text.empty(), FormatError, "[tokenizer] {} is empty; fetch the file again", where);
  io::refuse_other_kind(text, "[tokenizer] " + where);
  if (found.source == Source::kTokenizerJson) {
    return std::make_unique<BpeTokenizer>(read_tokenizer_json(text, where), config, where);
  }
  return std::make_unique<SentencePieceTokenizer>(text, config, where);
}

std::vector<std::string> save_tokenizer_files(const fs::path& source, const fs::path& folder,
                                              const std::vector<NamedTemplate>& templates) {
  const Found found = find_tokenizer(source);
  TokenizerFiles files(folder);
  if (found.source == Source::kGguf) {
    files.write_gguf_tokenizer(found.file);
  } else {
    files.copy(found.file.parent_path(), templates.empty());
  }
  if (!templates.empty()) files.write_templates(templates);
  return std::move(files).names();
}

}  // namespace qlora::data
