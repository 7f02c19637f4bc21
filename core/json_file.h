#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace qlora {

/// What a foreign JSON text may cost.
struct JsonLimits {
  uint64_t max_bytes = uint64_t{256} << 20;
  int max_depth = 64;  // nested lists and objects
};

/// "line 3, column 7": where the first `byte` bytes of a text end, for messages.
std::string position_text(std::string_view text, size_t byte);

/// Parses JSON; // and /* */ comments are allowed. Key order is kept.
///   source    names the text in messages
///   throws    FormatError with line and column: not JSON, a number that no double holds, a key
///             twice in one object, nesting or size above the limits
nlohmann::ordered_json parse_json(std::string_view text, const std::string& source,
                                  const JsonLimits& limits = {});

/// The same from a file. Throws IoError where it cannot be read or is no regular file.
nlohmann::ordered_json read_json_file(const std::filesystem::path& path,
                                      const JsonLimits& limits = {});

}  // namespace qlora
