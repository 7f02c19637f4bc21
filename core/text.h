#pragma once

#include <cstdint>
#include <string>

namespace qlora {

std::string count_text(int64_t count);  // 134,515,008

/// Text for HTML, SVG and their attributes: marks escaped, control characters as spaces.
std::string markup_text(const std::string& text);

/// Text for a cell of a markdown table or a quoted YAML value: one line without marks of either.
std::string table_text(const std::string& text);

}  // namespace qlora
