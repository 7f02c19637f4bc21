#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qlora::data {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

/// Reads one character of valid UTF-8 and moves `at` behind it.
///   Requires  at < text.size(), at a character's first byte
inline char32_t next_character(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return text[at++];
  char32_t code;
  if (lead < 0xE0) {
    code = (lead & 0x1Fu) << 6 | (byte(1) & 0x3Fu);
    at += 2;
  } else if (lead < 0xF0) {
    code = (lead & 0x0Fu) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
    at += 3;
  } else {
    code =
        (lead & 0x07u) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
    at += 4;
  }
  return code;
}

/// Bytes of the character that starts with `lead`, a first byte of valid UTF-8.
inline size_t character_bytes(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

void append_utf8(std::string& out, char32_t code);

/// Length of the valid UTF-8 at the start of the text.
size_t valid_utf8_prefix(std::string_view text);

/// The text with U+FFFD for every maximal subpart of an ill-formed sequence (Unicode 15, section
/// 3.9, table 3-8; the WHATWG decoder and Python's errors="replace" do the same).
std::string replace_invalid_utf8(std::string_view text);

}  // namespace qlora::data
