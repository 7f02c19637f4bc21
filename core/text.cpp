#include "core/text.h"

namespace qlora {
namespace {

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20;
}

}  // namespace

std::string count_text(int64_t count) {
  std::string digits = std::to_string(count);
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t at = digits.size(); at > first + 3;) {
    at -= 3;
    digits.insert(at, ",");
  }
  return digits;
}

std::string markup_text(const std::string& text) {
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
        safe += is_control(c) ? ' ' : c;
    }
  }
  return safe;
}

std::string table_text(const std::string& text) {
  std::string safe;
  for (const char c : text) {
    const bool is_mark = c == '|' || c == '"' || c == '\\' || c == '`' || c == '<' || is_control(c);
    safe += is_mark ? ' ' : c;
  }
  return safe;
}

}  // namespace qlora
