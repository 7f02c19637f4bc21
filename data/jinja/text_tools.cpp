#include "data/jinja/text_tools.h"

#include <algorithm>

#include "data/unicode.h"
#include "data/utf8.h"

namespace qlora::data::jinja {
namespace {

/// str.isspace: White_Space and the four separators of ASCII.
bool is_space(char32_t code) {
  return is_white_space(code) || (code >= 0x1C && code <= 0x1F);
}

/// Where the last character before `end` begins.
size_t previous(std::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (text[end] & 0xC0) == 0x80);
  return end;
}

template <class Takes>
std::string_view strip_if(std::string_view text, Side side, const Takes& takes) {
  size_t begin = 0, end = text.size();
  while (side != Side::kRight && begin < end) {
    size_t next = begin;
    if (!takes(next_character(text, next))) break;
    begin = next;
  }
  while (side != Side::kLeft && begin < end) {
    const size_t last = previous(text, end);
    size_t at = last;
    if (!takes(next_character(text, at))) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

bool is_line_end(char32_t code) {
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

}  // namespace

size_t space_prefix(std::string_view text) {
  return text.size() - strip_if(text, Side::kLeft, is_space).size();
}

size_t space_suffix(std::string_view text) {
  return text.size() - strip_if(text, Side::kRight, is_space).size();
}

std::string_view strip(std::string_view text, Side side) {
  return strip_if(text, side, is_space);
}

std::string_view strip(std::string_view text, Side side, std::string_view characters) {
  std::vector<char32_t> set;
  for (size_t at = 0; at < characters.size();) set.push_back(next_character(characters, at));
  return strip_if(text, side, [&](char32_t code) {
    return std::find(set.begin(), set.end(), code) != set.end();
  });
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

size_t byte_of_character(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += character_bytes(text[at]);
  return at;
}

size_t character_of_byte(std::string_view text, size_t byte) {
  return count_characters(text.substr(0, byte));
}

std::vector<std::string_view> characters_of(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t at = 0; at < text.size();) {
    out.push_back(text.substr(at, character_bytes(text[at])));
    at += out.back().size();
  }
  return out;
}

std::vector<std::string_view> split_at_space(std::string_view text, int64_t most, Side from) {
  std::vector<std::string_view> out;
  const bool forwards = from == Side::kLeft;
  while (true) {
    text = strip(text, from);
    if (text.empty()) break;
    if (most >= 0 && static_cast<int64_t>(out.size()) == most) {
      out.push_back(text);  // with the white space at its far end
      break;
    }
    const auto is_word = [](char32_t code) { return !is_space(code); };
    const std::string_view rest = strip_if(text, from, is_word);
    const size_t word = text.size() - rest.size();
    out.push_back(forwards ? text.substr(0, word) : text.substr(text.size() - word));
    text = rest;
  }
  if (!forwards) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view separator,
                                       int64_t most, Side from) {
  std::vector<std::string_view> out;
  const bool forwards = from == Side::kLeft;
  while (most < 0 || static_cast<int64_t>(out.size()) < most) {
    const size_t at = forwards ? text.find(separator) : text.rfind(separator);
    if (at == std::string_view::npos) break;
    const size_t behind = at + separator.size();
    out.push_back(forwards ? text.substr(0, at) : text.substr(behind));
    text = forwards ? text.substr(behind) : text.substr(0, at);
  }
  out.push_back(text);
  if (!forwards) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keeps_ends) {
  std::vector<std::string_view> out;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t code = next_character(text, at);
    if (!is_line_end(code)) continue;
    if (code == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(begin, (keeps_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return out;
}

}  // namespace qlora::data::jinja
