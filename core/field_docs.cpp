#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/field_check.h"
#include "core/field_paths.h"
#include "core/fields.h"

namespace qlora::detail {
namespace {

using Kind = FieldType::Kind;

// The synonyms that stand in `list` for `path`, which is relative to it.
std::vector<std::string> synonyms(const FieldList& list, const std::string& path) {
  std::vector<std::string> names;
  for (const auto& [old_name, key] : list.aliases()) {
    if (key == path) names.push_back(old_name);
  }
  return names;
}

// A bar would end the table's cell.
std::string cell(const std::string& text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

void write_table(const FieldList& list, const FieldList& root, const std::string& prefix,
                 std::string& page) {
  const auto is_section = [](const Field& field) { return field.section != nullptr; };
  if (!std::all_of(list.entries().begin(), list.entries().end(), is_section)) {
    page += "| key | type | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n";
  }
  for (const Field& field : list.entries()) {
    if (field.section) continue;
    std::string meaning = field.doc;
    auto names = synonyms(list, field.key);
    for (const auto& name :
         prefix.empty() ? std::vector<std::string>{} : synonyms(root, prefix + field.key)) {
      names.push_back(name + "` at the top");
    }
    for (std::string& name : names) name = name.ends_with("top") ? "`" + name : "`" + name + "`";
    if (!names.empty()) meaning += fmt::format(" (also {})", fmt::join(names, ", "));
    page += fmt::format("| `{}{}` | {} | `{}` | {} | {} |\n", prefix, field.key,
                        type_text(field.type), field.get().dump(),
                        cell(constraint_text(field.type, field.constraint)), cell(meaning));
  }
  for (const Field& field : list.entries()) {
    if (!field.section) continue;
    page += fmt::format("\n## `{}{}`\n\n{}\n\n", prefix, field.key, field.doc);
    write_table(*field.section, root, prefix + field.key + ".", page);
  }
}

// A bound of a whole number is written as one.
Json bound(Kind kind, double value) {
  const bool is_integer = kind == Kind::kInteger || kind == Kind::kIntegerMap;
  if (is_integer && value == std::floor(value) && std::abs(value) < 9e15) {
    return static_cast<int64_t>(value);
  }
  return value;
}

Json item_schema(const FieldType& type, const Constraint& c) {
  Json schema = Json::object();
  const bool is_text = type.kind == Kind::kText || type.kind == Kind::kTextList;
  if (type.kind == Kind::kBool) {
    schema["type"] = "boolean";
  } else if (is_text) {
    schema["type"] = "string";
    if (!type.names.empty()) schema["enum"] = type.names;
    if (!c.choices.empty()) schema["enum"] = c.choices;
    if (c.filled) schema["minLength"] = 1;
  } else {
    const bool is_integer = type.kind == Kind::kInteger || type.kind == Kind::kIntegerMap;
    schema["type"] = is_integer ? "integer" : "number";
    const Json low = bound(type.kind, c.low);
    if (std::isfinite(c.low)) schema[c.low_is_open ? "exclusiveMinimum" : "minimum"] = low;
    if (std::isinf(c.low) && type.kind == Kind::kInteger) schema["minimum"] = type.lowest;
    if (std::isfinite(c.high)) schema["maximum"] = bound(type.kind, c.high);
    if (std::isinf(c.high) && type.kind == Kind::kInteger) schema["maximum"] = type.highest;
  }
  return schema;
}

Json value_schema(const Field& field) {
  const FieldType& type = field.type;
  Json schema = item_schema(type, field.constraint);
  if (type.kind == Kind::kTextList) {
    Json list = {{"type", "array"}, {"items", schema}};
    if (field.constraint.filled) list["minItems"] = 1;
    schema = {{"anyOf", Json::array({schema, list})}};
    if (type.is_optional) schema["anyOf"].push_back({{"type", "null"}});
  } else if (type.kind == Kind::kIntegerMap || type.kind == Kind::kNumberMap) {
    schema = {{"type", "object"}, {"additionalProperties", schema}};
    if (field.constraint.filled) schema["minProperties"] = 1;
  }
  if (type.is_optional && schema.contains("type")) {
    schema["type"] = Json::array({schema["type"], "null"});
    if (schema.contains("enum")) schema["enum"].push_back(nullptr);
  }
  schema["description"] = field.doc;
  schema["default"] = field.get();
  return schema;
}

Json section_schema(const FieldList& list) {
  Json properties = Json::object();
  for (const Field& field : list.entries()) {
    properties[field.key] = field.section ? section_schema(*field.section) : value_schema(field);
    if (field.section) properties[field.key]["description"] = field.doc;
  }
  for (const auto& [old_name, key] : list.aliases()) {
    const Field* field = list.find(key);
    if (!field || field->section) continue;
    properties[old_name] = value_schema(*field);
    properties[old_name]["description"] = fmt::format("Read as {}. {}", key, field->doc);
    properties[old_name]["deprecated"] = true;
  }
  return {{"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
}

Json explain_value(const Field& field, const std::string& path) {
  return {{"key", path},
          {"text", field.doc},
          {"type", type_text(field.type)},
          {"default", field.get()},
          {"allowed", constraint_text(field.type, field.constraint)}};
}

/// What stands in a section, one level deep.
Json explain_entries(const FieldList& list, const std::string& path) {
  Json entries = Json::array();
  for (const Field& field : list.entries()) {
    const std::string full = joined(path, field.key);
    entries.push_back(field.section
                          ? Json{{"key", full}, {"text", field.doc}, {"type", "a section"}}
                          : explain_value(field, full));
  }
  return entries;
}

std::vector<std::string> all_synonyms(const FieldList& list, const std::string& path) {
  std::vector<std::string> names = synonyms(list, path);
  const size_t dot = path.rfind('.');
  if (dot == std::string::npos) return names;
  const std::string section = path.substr(0, dot);
  for (const std::string& name : synonyms(*list.find(section)->section, path.substr(dot + 1))) {
    names.push_back(section + "." + name);
  }
  return names;
}

}  // namespace

std::string document(const FieldList& list, const std::string& title) {
  std::string page = fmt::format("# {}\n\n", title);
  write_table(list, list, "", page);
  return page;
}

Json schema(const FieldList& list, const std::string& title) {
  Json schema = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", title}};
  schema.update(section_schema(list));
  schema["properties"]["$schema"] = {{"type", "string"}};
  return schema;
}

Json explain(const FieldList& list, const std::string& path) {
  if (path.empty()) return {{"keys", explain_entries(list, "")}};
  const Target target = resolve(list, "", path);
  QLORA_CHECK(target.field, ConfigError, "[config] {} is not a key; {}", shown(path),
              suggestion(list, *target.section, target.section_path, target.unknown));
  if (target.field->section) {
    return {{"key", target.path},
            {"text", target.field->doc},
            {"type", "a section"},
            {"keys", explain_entries(*target.field->section, target.path)}};
  }
  Json facts = explain_value(*target.field, target.path);
  facts["also"] = all_synonyms(list, target.path);
  return facts;
}

std::string explanation_text(const Json& facts) {
  const auto text_of = [](const Json& of, const char* name) { return of[name].get<std::string>(); };
  std::string text;
  if (facts.contains("key")) {
    text = fmt::format("{}: {}\n", text_of(facts, "key"), text_of(facts, "text"));
  }
  if (facts.contains("keys")) {
    for (const Json& entry : facts["keys"]) {
      text += fmt::format("  {:<40} {}\n", text_of(entry, "key"), text_of(entry, "text"));
    }
    return text;
  }
  text += fmt::format("  type     {}\n  default  {}\n", text_of(facts, "type"),
                      facts["default"].dump());
  if (const auto allowed = text_of(facts, "allowed"); !allowed.empty()) {
    text += fmt::format("  allowed  {}\n", allowed);
  }
  const auto names = facts["also"].get<std::vector<std::string>>();
  if (!names.empty()) text += fmt::format("  also     {}\n", fmt::join(names, ", "));
  return text;
}

}  // namespace qlora::detail
