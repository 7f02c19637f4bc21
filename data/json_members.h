#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "data/regex.h"

namespace qlora::data {

// Members of a foreign JSON object, checked. `where` names the file in messages. All throw
// FormatError.

inline constexpr int kMaxComponentDepth = 8;  // sequences within sequences

std::string member_string(const nlohmann::json& object, const char* key, const std::string& where);
bool member_bool(const nlohmann::json& object, const char* key, bool absent,
                 const std::string& where);
const nlohmann::json& member_array(const nlohmann::json& object, const char* key,
                                   const std::string& where);

/// "type" of a component of the tokenizer pipeline; `part` says which: "normalizer", "decoder" …
std::string component_type(const nlohmann::json& object, const std::string& where, const char* part,
                           int depth);

/// "pattern": {"String": …} or {"Regex": …}: a literal, or a pattern.
std::pair<std::string, std::optional<Regex>> member_pattern(const nlohmann::json& object,
                                                            const std::string& where);

[[noreturn]] void refuse_component(const char* part, const std::string& type, const char* known,
                                   const std::string& where);

}  // namespace qlora::data
