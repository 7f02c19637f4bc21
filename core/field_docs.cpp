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

std::string explain_section(const FieldList& list, const std::string& path) {
  std::string text;
  for (const Field& field : list.entries()) {
    const std::string full = path.empty() ? field.key : path + "." + field.key;
    text += fmt::format("  {:<40} {}\n", full, field.doc);
  }
  return text;
}

std::string explain_value(const Field& field, const std::string& path,
                          const std::vector<std::string>& names) {
  std::string text = fmt::format("{}: {}\n  type     {}\n  default  {}\n", path, field.doc,
                                 type_text(field.type), field.get().dump());
  const std::string allowed = constraint_text(field.type, field.constraint);
  if (!allowed.empty()) text += fmt::format("  allowed  {}\n", allowed);
  if (!names.empty()) text += fmt::format("  also     {}\n", fmt::join(names, ", "));
  return text;
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

std::string explain(const FieldList& list, const std::string& path) {
  if (path.empty()) return explain_section(list, "");
  const Target target = resolve(list, "", path);
  QLORA_CHECK(target.field, ConfigError, "[config] {} is not a key; {}", shown(path),
              suggestion(list, *target.section, target.section_path, target.unknown));
  if (target.field->section) {
    return fmt::format("{}: {}\n", target.path, target.field->doc) +
           explain_section(*target.field->section, target.path);
  }
  std::vector<std::string> names = synonyms(list, target.path);
  const size_t dot = target.path.rfind('.');
  if (dot != std::string::npos) {
    const std::string section = target.path.substr(0, dot);
    for (const std::string& name :
         synonyms(*list.find(section)->section, target.path.substr(dot + 1))) {
      names.push_back(section + "." + name);
    }
  }
  return explain_value(*target.field, target.path, names);
}

}  // namespace qlora::detail
