#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/dataset.h"

namespace qlora::data {

// Conversations in rows. `where` is file and line, for messages. All throw FormatError.

/// A list of {"role", "content", …}: the form of OpenAI and of transformers.
void read_messages(const nlohmann::ordered_json& row, const std::string& field,
                   const std::string& where, Record& record);

/// A list of {"from", "value"}: the form of ShareGPT, with the usual names of roles (human, gpt,
/// system, tool …). Turns with role and content are read as well; a field "system" comes first.
void read_sharegpt(const nlohmann::ordered_json& row, const std::string& field,
                   const std::string& where, Record& record);

/// The tools that the conversation may call: a list, or its text as JSON.
void read_tools(const nlohmann::ordered_json& row, const std::string& field,
                const std::string& where, Record& record);

}  // namespace qlora::data
