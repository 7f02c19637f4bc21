#pragma once

#include <string>

#include "core/fields.h"

namespace qlora::detail {

std::string joined(const std::string& prefix, const std::string& key);  // "lora" + "r" = "lora.r"

/// A key or path on one line of a message, quoted only where it is no ordinary name.
std::string shown(const std::string& key);

/// What the synonym `name` of this section stands for; null if it is none.
const std::string* alias_target(const FieldList& list, const std::string& name);

struct Target {
  const Field* field = nullptr;  // null: there is no such key
  std::string path{};            // of the field, without synonyms
  std::string map_key{};         // what follows the key of a map
  // Where there is no such key, for suggestion(): the last section that there is, its path and
  // what was typed after it.
  const FieldList* section = nullptr;
  std::string section_path{};
  std::string unknown{};
};

/// Follows a dotted path through sections, synonyms and into a map.
Target resolve(const FieldList& list, const std::string& section_path, const std::string& typed);

/// What to tell someone who typed `key` in `section`: "did you mean lora.r?". Looks for the very
/// name everywhere, then for near ones in the section, then for near ones everywhere.
std::string suggestion(const FieldList& root, const FieldList& section, const std::string& prefix,
                       const std::string& key);

}  // namespace qlora::detail
