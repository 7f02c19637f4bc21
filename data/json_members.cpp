#include "data/json_members.h"

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::data {

std::string member_string(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto at = object.find(key);
  QLORA_CHECK(at != object.end() && at->is_string(), FormatError,
              "[tokenizer] {}: a component lacks its text '{}'", where, key);
  return at->get<std::string>();
}

bool member_bool(const nlohmann::json& object, const char* key, bool absent,
                 const std::string& where) {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null()) return absent;
  QLORA_CHECK(at->is_boolean(), FormatError, "[tokenizer] {}: '{}' is {}, allowed true or false",
              where, key, at->type_name());
  return at->get<bool>();
}

const nlohmann::json& member_array(const nlohmann::json& object, const char* key,
                                   const std::string& where) {
  const auto at = object.find(key);
  QLORA_CHECK(at != object.end() && at->is_array(), FormatError,
              "[tokenizer] {}: a component lacks its list '{}'", where, key);
  return *at;
}

std::string component_type(const nlohmann::json& object, const std::string& where, const char* part,
                           int depth) {
  QLORA_CHECK(object.is_object(), FormatError, "[tokenizer] {}: a {} is {}, expected an object",
              where, part, object.type_name());
  QLORA_CHECK(depth <= kMaxComponentDepth, FormatError,
              "[tokenizer] {}: a {} nests deeper than {} sequences", where, part,
              kMaxComponentDepth);
  return member_string(object, "type", where);
}

std::pair<std::string, std::optional<Regex>> member_pattern(const nlohmann::json& object,
                                                            const std::string& where) {
  const auto at = object.find("pattern");
  if (at != object.end() && at->is_object()) {
    if (const auto text = at->find("String"); text != at->end() && text->is_string()) {
      return {text->get<std::string>(), std::nullopt};
    }
    if (const auto text = at->find("Regex"); text != at->end() && text->is_string()) {
      return {std::string(), Regex(text->get<std::string>())};
    }
  }
  throw FormatError(
      fmt::format("[tokenizer] {}: a component lacks its pattern; allowed {{\"String\": …}} and "
                  "{{\"Regex\": …}}",
                  where));
}

void refuse_component(const char* part, const std::string& type, const char* known,
                      const std::string& where) {
  throw FormatError(fmt::format("[tokenizer] {}: the {} {} is not supported; known are {}", where,
                                part, io::quote(type), known));
}

}  // namespace qlora::data
