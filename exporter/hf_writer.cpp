#include "exporter/hf_writer.h"

#include <algorithm>
#include <cctype>
#include <sstream>
#include <utility>

#include "core/error.h"
#include "exporter/gguf_tokenizer.h"
#include "io/atomic_file.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr uint64_t kMaxTextBytes = 16 << 20;

fs::path folder_of(const fs::path& source) {
  return fs::is_directory(source) ? source : source.parent_path();
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

/// Writes files into one folder and remembers their names.
class Folder {
 public:
  explicit Folder(const fs::path& path) : path_(path) {}
  void write(const std::string& name, std::string_view content) {
    io::write_file_atomic(path_ / name, content);
    remember(name);
  }
  void write_json(const std::string& name, const Json& json) { write(name, json.dump(2) + "\n"); }
  void remember(const std::string& name) {
    if (std::find(names_.begin(), names_.end(), name) == names_.end()) names_.push_back(name);
  }
  const fs::path& path() const { return path_; }
  std::vector<std::string> names() && { return std::move(names_); }

 private:
  fs::path path_;
  std::vector<std::string> names_;
};

void write_config(const ModelFiles& files, Folder& folder) {
  io::HfConfig config = files.config;
  config.torch_dtype = files.torch_dtype;
  config.quantization_config.clear();
  nlohmann::json json = io::to_json(config);
  json["use_cache"] = true;
  if (!files.quantization_config.is_null()) {
    json["quantization_config"] = files.quantization_config;
  }
  folder.write("config.json", json.dump(2) + "\n");
  const Json& quantization = files.quantization_config;
  if (!quantization.is_null() && quantization.value("quant_method", "") == "gptq") {
    folder.write_json("quantize_config.json", quantization);
  }
}

void write_tokenizer(const ModelFiles& files, Folder& folder) {
  const fs::path source = tokenizer_file(files.source);
  auto templates = files.chat_templates;
  if (templates.empty()) templates = data::load_tokenizer(source)->chat_templates();
  for (const std::string& name : data::save_tokenizer_files(source, folder.path(), templates)) {
    folder.remember(name);
  }
  const fs::path path = folder.path() / "tokenizer_config.json";
  Json config = Json::object();
  if (fs::exists(path)) config = Json::parse(io::read_file(path, kMaxTextBytes));
  // transformers 5 writes TokenizersBackend, which transformers 4 does not know.
  const bool has_fast = fs::exists(folder.path() / "tokenizer.json");
  if (has_fast) config["tokenizer_class"] = "PreTrainedTokenizerFast";
  if (!has_fast && !config.contains("tokenizer_class"))
    config["tokenizer_class"] = "LlamaTokenizer";
  for (const char* key : {"backend", "is_local", "local_files_only", "name_or_path"}) {
    config.erase(key);
  }
  folder.write_json("tokenizer_config.json", config);
}

void write_generation_config(const ModelFiles& files, Folder& folder) {
  const fs::path source = folder_of(files.source) / "generation_config.json";
  if (fs::exists(source)) {
    folder.write("generation_config.json", io::read_file(source, kMaxTextBytes));
    return;
  }
  const io::HfConfig& c = files.config;
  Json json = {{"_from_model_config", true}};
  if (c.bos_token_id) json["bos_token_id"] = *c.bos_token_id;
  if (c.eos_token_ids.size() == 1) json["eos_token_id"] = c.eos_token_ids[0];
  if (c.eos_token_ids.size() > 1) json["eos_token_id"] = c.eos_token_ids;
  if (c.pad_token_id) json["pad_token_id"] = *c.pad_token_id;
  folder.write_json("generation_config.json", json);
}

/// The value of "license:" in the front matter of a model card.
std::string front_matter_licence(const std::string& card) {
  std::istringstream lines(card);
  std::string line;
  if (!std::getline(lines, line) || line.substr(0, 3) != "---") return "";
  while (std::getline(lines, line) && line.substr(0, 3) != "---") {
    if (!line.starts_with("license:")) continue;
    std::string value = line.substr(8);
    std::erase_if(value, [](unsigned char c) {
      return std::isspace(c) || c == '"' || c == '\'' || c == '\r';
    });
    const bool is_plain = std::all_of(value.begin(), value.end(), [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '.' || c == '_';
    });
    return is_plain ? value : "";
  }
  return "";
}

std::string known_licence(const std::string& text) {
  const std::string head = upper(text.substr(0, 4000));
  const auto has = [&](const char* part) { return head.find(part) != std::string::npos; };
  if (has("APACHE LICENSE") && has("VERSION 2.0")) return "apache-2.0";
  if (has("LLAMA 3.3 COMMUNITY")) return "llama3.3";
  if (has("LLAMA 3.2 COMMUNITY")) return "llama3.2";
  if (has("LLAMA 3.1 COMMUNITY")) return "llama3.1";
  if (has("LLAMA 3 COMMUNITY")) return "llama3";
  if (has("LLAMA 2 COMMUNITY")) return "llama2";
  if (has("MIT LICENSE") || has("PERMISSION IS HEREBY GRANTED, FREE OF CHARGE")) return "mit";
  return "";
}

}  // namespace

std::vector<fs::path> licence_files(const fs::path& source) {
  std::vector<fs::path> files;
  const fs::path folder = folder_of(source);
  if (!fs::is_directory(folder)) return files;
  for (const auto& item : fs::directory_iterator(folder)) {
    const std::string name = upper(item.path().filename().string());
    const bool is_licence = name.starts_with("LICENSE") || name.starts_with("LICENCE") ||
                            name.starts_with("NOTICE") || name.starts_with("COPYING") ||
                            name.starts_with("USE_POLICY");
    if (is_licence && item.is_regular_file() && item.file_size() <= kMaxTextBytes) {
      files.push_back(item.path());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string licence_name(const fs::path& source) {
  const fs::path card = folder_of(source) / "README.md";
  if (fs::is_regular_file(card) && fs::file_size(card) <= kMaxTextBytes) {
    const std::string name = front_matter_licence(io::read_file(card, kMaxTextBytes));
    if (!name.empty()) return name;
  }
  for (const fs::path& file : licence_files(source)) {
    const std::string name = known_licence(io::read_file(file, kMaxTextBytes));
    if (!name.empty()) return name;
  }
  return "";
}

std::vector<std::string> write_model_files(const fs::path& path, const ModelFiles& files) {
  Folder folder(path);
  write_config(files, folder);
  write_tokenizer(files, folder);
  write_generation_config(files, folder);
  for (const fs::path& file : licence_files(files.source)) {
    folder.write(file.filename().string(), io::read_file(file, kMaxTextBytes));
  }
  return std::move(folder).names();
}

}  // namespace qlora::exporter
