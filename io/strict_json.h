#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace qlora::io {

/// Parses JSON of a foreign file.
///   where      name of the file for messages
///   max_depth  most nested arrays and objects
///   throws     FormatError for text that is not JSON, nests deeper, or gives a key twice in an
///   object
nlohmann::json parse_strict_json(std::string_view text, std::string_view where, int max_depth = 32);

/// The same; objects keep the order of their keys.
nlohmann::ordered_json parse_strict_ordered_json(std::string_view text, std::string_view where,
                                                 int max_depth = 32);

}  // namespace qlora::io
