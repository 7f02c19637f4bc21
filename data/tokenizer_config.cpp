#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/json_members.h"
#include "data/tokenizer_spec.h"
#include "io/atomic_file.h"
#include "io/file_kind.h"
#include "io/foreign_text.h"
#include "io/strict_json.h"

namespace qlora::data {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = uint64_t{64} << 20;

std::string read_text(const fs::path& path) {
  std::string text = io::read_file(path, kMaxConfigBytes);
  io::refuse_other_kind(text, "[tokenizer] " + path.string());
  return text;
}

json parse(const std::string& text, const fs::path& path) {
  try {
    return io::parse_strict_json(text, path.string());
  } catch (const FormatError& error) {
    throw FormatError(fmt::format("{}; mend the file or fetch it again", error.what()));
  }
}

/// The object in a file of the folder; empty where there is no such file.
json read_object(const fs::path& path) {
  if (!io::is_present(path)) return json::object();
  json object = parse(read_text(path), path);
  QLORA_CHECK(object.is_object(), FormatError,
              "[tokenizer] {} holds {}, expected an object; fetch the file again", path.string(),
              object.type_name());
  return object;
}

/// A token given as text, as {"content": text} or as null.
void read_token(const json& object, const char* key, const std::string& where,
                std::optional<std::string>& token) {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null() || token) return;
  if (at->is_string()) {
    token = at->get<std::string>();
  } else {
    QLORA_CHECK(at->is_object(), FormatError, "[tokenizer] {}: {} is {}, expected a text", where,
                key, at->type_name());
    token = member_string(*at, "content", where);
  }
}

void read_flag(const json& object, const char* key, const std::string& where,
               std::optional<bool>& flag) {
  if (object.contains(key) && !object[key].is_null()) {
    flag = member_bool(object, key, false, where);
  }
}

void add_template(std::string name, std::string text, std::vector<NamedTemplate>& templates) {
  std::erase_if(templates, [&](const NamedTemplate& known) { return known.name == name; });
  const auto at = name == "default" ? templates.begin() : templates.end();
  templates.insert(at, {std::move(name), std::move(text)});
}

/// One text, or a list of {name, template}.
void read_templates(const json& object, const std::string& where,
                    std::vector<NamedTemplate>& templates) {
  const auto at = object.find("chat_template");
  if (at == object.end() || at->is_null()) return;
  if (at->is_string()) return add_template("default", at->get<std::string>(), templates);
  QLORA_CHECK(at->is_array(), FormatError,
              "[tokenizer] {}: chat_template is {}, expected a text or a list of named texts",
              where, at->type_name());
  for (const json& entry : *at) {
    QLORA_CHECK(entry.is_object(), FormatError,
                "[tokenizer] {}: a chat template is {}, expected an object with name and template",
                where, entry.type_name());
    add_template(member_string(entry, "name", where), member_string(entry, "template", where),
                 templates);
  }
}

/// The files that transformers writes; they count more than tokenizer_config.json.
void read_template_files(const fs::path& folder, std::vector<NamedTemplate>& templates) {
  if (io::is_present(folder / "chat_template.jinja")) {
    add_template("default", read_text(folder / "chat_template.jinja"), templates);
  }
  for (const fs::path& file : io::entries_of(folder / kAdditionalTemplates)) {
    if (file.extension() != ".jinja") continue;
    add_template(file.stem().string(), read_text(file), templates);
  }
}

int32_t read_id(const std::string& text, const std::string& where) {
  int64_t id = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  QLORA_CHECK(
      error == std::errc() && end == text.data() + text.size() && id >= 0 && id <= kMaxTokenId,
      FormatError, "[tokenizer] {}: the token id {} is not 0 to {}", where, io::quote(text),
      kMaxTokenId);
  return static_cast<int32_t>(id);
}

void read_added_decoder(const json& object, const std::string& where,
                        std::vector<AddedToken>& added) {
  const auto at = object.find("added_tokens_decoder");
  if (at == object.end() || at->is_null()) return;
  QLORA_CHECK(at->is_object(), FormatError,
              "[tokenizer] {}: added_tokens_decoder is {}, expected an object", where,
              at->type_name());
  for (const auto& [id, entry] : at->items()) {
    QLORA_CHECK(entry.is_object(), FormatError,
                "[tokenizer] {}: the added token {} is {}, expected an object", where,
                io::quote(id), entry.type_name());
    added.push_back({.id = read_id(id, where),
                     .content = member_string(entry, "content", where),
                     .special = member_bool(entry, "special", false, where),
                     .normalized = member_bool(entry, "normalized", true, where),
                     .single_word = member_bool(entry, "single_word", false, where),
                     .lstrip = member_bool(entry, "lstrip", false, where),
                     .rstrip = member_bool(entry, "rstrip", false, where)});
  }
}

}  // namespace

TokenizerConfig read_tokenizer_config(const fs::path& folder) {
  TokenizerConfig config;
  const std::string where = (folder / "tokenizer_config.json").string();
  const json main = read_object(folder / "tokenizer_config.json");
  const json map = read_object(folder / "special_tokens_map.json");
  for (const json* object : {&main, &map}) {
    read_token(*object, "bos_token", where, config.bos);
    read_token(*object, "eos_token", where, config.eos);
    read_token(*object, "pad_token", where, config.pad);
    read_token(*object, "unk_token", where, config.unk);
  }
  read_flag(main, "add_bos_token", where, config.add_bos);
  read_flag(main, "add_eos_token", where, config.add_eos);
  read_flag(main, "legacy", where, config.legacy);
  read_templates(main, where, config.chat_templates);
  read_template_files(folder, config.chat_templates);
  read_added_decoder(main, where, config.added);
  const std::string added_where = (folder / "added_tokens.json").string();
  const json added = read_object(folder / "added_tokens.json");
  for (const auto& [content, id] : added.items()) {
    QLORA_CHECK(id.is_number_unsigned() && id <= static_cast<uint64_t>(kMaxTokenId), FormatError,
                "[tokenizer] {}: the id of {} is not 0 to {}", added_where, io::quote(content),
                kMaxTokenId);
    const bool is_known = std::any_of(config.added.begin(), config.added.end(),
                                      [&](const AddedToken& t) { return t.content == content; });
    if (!is_known) {
      config.added.push_back({.id = id.get<int32_t>(), .content = content, .special = true});
    }
  }
  return config;
}

}  // namespace qlora::data
