#include "core/field_paths.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/field_check.h"
#include "core/nearest_name.h"

namespace qlora::detail {
namespace {

struct Name {
  std::string leaf;  // what a user types: a key or a synonym
  std::string path;  // what it stands for
};

void collect_names(const FieldList& list, const std::string& prefix, bool nested,
                   std::vector<Name>& names) {
  for (const Field& field : list.entries()) names.push_back({field.key, joined(prefix, field.key)});
  for (const auto& [old_name, key] : list.aliases())
    names.push_back({old_name, joined(prefix, key)});
  if (!nested) return;
  for (const Field& field : list.entries()) {
    if (field.section) collect_names(*field.section, joined(prefix, field.key), true, names);
  }
}

const Name* nearest(const std::string& key, const std::vector<Name>& names) {
  std::vector<std::string> leaves;
  for (const Name& name : names) leaves.push_back(name.leaf);
  const auto best = nearest_name(key, leaves);
  if (!best) return nullptr;
  return &*std::find_if(names.begin(), names.end(), [&](auto& n) { return n.leaf == *best; });
}

bool is_map(const FieldType& type) {
  return type.kind == FieldType::Kind::kIntegerMap || type.kind == FieldType::Kind::kNumberMap;
}

}  // namespace

std::string joined(const std::string& prefix, const std::string& key) {
  return prefix.empty() ? key : prefix + "." + key;
}

std::string shown(const std::string& key) {
  const std::string text = quoted(key);
  return text.size() == key.size() + 2 && !key.empty() ? key : text;
}

const std::string* alias_target(const FieldList& list, const std::string& name) {
  for (const auto& [old_name, key] : list.aliases()) {
    if (old_name == name) return &key;
  }
  return nullptr;
}

std::string suggestion(const FieldList& root, const FieldList& section, const std::string& prefix,
                       const std::string& key) {
  std::vector<Name> here, everywhere;
  collect_names(section, prefix, false, here);
  collect_names(root, "", true, everywhere);
  const Name* name = nearest(key, here);
  const auto same = std::find_if(everywhere.begin(), everywhere.end(),
                                 [&](auto& n) { return n.leaf == key || n.path == key; });
  if (same != everywhere.end()) name = &*same;
  if (!name) name = nearest(key, everywhere);
  if (name) return fmt::format("did you mean {}?", name->path);
  return "`qlora config explain` lists the keys";
}

Target resolve(const FieldList& list, const std::string& section_path, const std::string& typed) {
  const size_t dot = typed.find('.');
  const std::string key = typed.substr(0, dot);
  const std::string rest = dot == std::string::npos ? "" : typed.substr(dot + 1);
  const std::string* target = alias_target(list, key);
  const Field* field = list.find(target ? *target : key);
  const std::string path = joined(section_path, target ? *target : key);
  if (field && dot == std::string::npos) return {.field = field, .path = path};
  if (field && field->section) return resolve(*field->section, path, rest);
  if (field && is_map(field->type) && !rest.empty()) {
    return {.field = field, .path = path, .map_key = rest};
  }
  return {.section = &list, .section_path = section_path, .unknown = typed};
}

}  // namespace qlora::detail
