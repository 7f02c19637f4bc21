#pragma once

#include <string>

namespace qlora::exporter {

/// Text for HTML and SVG: marks escaped, control characters as spaces.
std::string html_text(const std::string& text);

/// Text for a cell of a markdown table or a quoted YAML value: one line without marks of either.
std::string table_text(const std::string& text);

/// "1234567" as "1,234,567".
std::string with_separators(unsigned long long count);

}  // namespace qlora::exporter
