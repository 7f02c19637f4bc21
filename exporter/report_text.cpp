#include "exporter/report_text.h"

namespace qlora::exporter {

std::string html_text(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return safe;
}

std::string table_text(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    const bool is_mark = c == '|' || c == '"' || c == '\\' || c == '`' || c == '<' ||
                         static_cast<unsigned char>(c) < 0x20;
    safe += is_mark ? ' ' : c;
  }
  return safe;
}

std::string with_separators(unsigned long long count) {
  std::string digits = std::to_string(count);
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

}  // namespace qlora::exporter
