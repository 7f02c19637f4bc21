#include "data/letter_case.h"

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "data/utf8.h"

namespace qlora::data {
namespace {

struct CaseRange {
  char32_t first, last;
  uint8_t step;  // every character of the range, or every other one
  int32_t distance;
};
struct CaseSpecial {
  char32_t code;
  char32_t becomes[3];  // 0: none
};
struct CaseSet {
  char32_t first, last;
};
#include "data/letter_case.inc"

template <class Range, size_t kCount>
const Range* find_range(const Range (&table)[kCount], char32_t code) {
  const Range* at = std::upper_bound(std::begin(table), std::end(table), code,
                                     [](char32_t c, const Range& r) { return c < r.first; });
  if (at == std::begin(table)) return nullptr;
  --at;
  return code <= at->last ? at : nullptr;
}

template <size_t kCount>
const CaseSpecial* find_special(const CaseSpecial (&table)[kCount], char32_t code) {
  const CaseSpecial* at =
      std::lower_bound(std::begin(table), std::end(table), code,
                       [](const CaseSpecial& s, char32_t c) { return s.code < c; });
  return at != std::end(table) && at->code == code ? at : nullptr;
}

template <size_t kCount>
char32_t mapped(const CaseRange (&table)[kCount], char32_t code) {
  const CaseRange* range = find_range(table, code);
  if (!range || (code - range->first) % range->step != 0) return code;
  return static_cast<char32_t>(static_cast<int64_t>(code) + range->distance);
}

void append(std::string& out, const CaseSpecial& special) {
  for (const char32_t code : special.becomes) {
    if (code) append_utf8(out, code);
  }
}

void append_upper(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'a' && code <= 'z' ? code - 32 : code);
  } else if (const CaseSpecial* special = find_special(kUpperSpecial, code)) {
    append(out, *special);
  } else {
    append_utf8(out, mapped(kUpper, code));
  }
}

void append_lower(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code);
  } else if (const CaseSpecial* special = find_special(kLowerSpecial, code)) {
    append(out, *special);
  } else {
    append_utf8(out, mapped(kLower, code));
  }
}

void append_title(std::string& out, char32_t code) {
  if (const CaseSpecial* special = find_special(kTitleSpecial, code)) {
    append(out, *special);
  } else {
    append_upper(out, code);
  }
}

bool is_ignorable(char32_t code) {
  if (code < 0x80) return code == '\'' || code == '.' || code == ':' || code == '^' || code == '`';
  return find_range(kIgnorable, code) != nullptr;
}

bool is_cased(char32_t code) {
  if (code < 0x80) return (code >= 'a' && code <= 'z') || (code >= 'A' && code <= 'Z');
  return find_range(kCased, code) || find_range(kCasedIgnorable, code);
}

constexpr char32_t kSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

/// Unicode 15, table 3-17: a cased letter stands before, none behind; ignorable ones do not count.
bool ends_word(std::string_view text, size_t begin, size_t end) {
  char32_t before = 0;
  for (size_t at = 0; at < begin;) {
    const char32_t code = next_character(text, at);
    if (!is_ignorable(code)) before = code;
  }
  if (before == 0 || !is_cased(before)) return false;
  while (end < text.size()) {
    const char32_t code = next_character(text, end);
    if (!is_ignorable(code)) return !is_cased(code);
  }
  return true;
}

void append_lower_in(std::string& out, char32_t code, std::string_view text, size_t begin,
                     size_t end) {
  if (code == kSigma) {
    // Only the characters around count; a window keeps long runs of sigmas linear.
    constexpr size_t kWindow = 256;
    size_t from = begin > kWindow ? begin - kWindow : 0;
    while (from > 0 && (text[from] & 0xC0) == 0x80) --from;
    const std::string_view window = text.substr(from, end - from + kWindow);
    append_utf8(out,
                ends_word(window.substr(0, valid_utf8_prefix(window)), begin - from, end - from)
                    ? kFinalSigma
                    : kSmallSigma);
  } else {
    append_lower(out, code);
  }
}

}  // namespace

std::string to_upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_upper(out, next_character(text, at));
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_character(text, at);
    append_lower_in(out, code, text, begin, at);
  }
  return out;
}

std::string lower_each(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_lower(out, next_character(text, at));
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool after_cased = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_character(text, at);
    if (after_cased) {
      append_lower_in(out, code, text, begin, at);
    } else {
      append_title(out, code);
    }
    after_cased = is_cased(code);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_character(text, at);
    if (begin == 0) {
      append_title(out, code);
    } else {
      append_lower_in(out, code, text, begin, at);
    }
  }
  return out;
}

bool is_printable(char32_t code) {
  if (code < 0x80) return code >= 0x20 && code < 0x7F;
  return find_range(kUnprintable, code) == nullptr;
}

}  // namespace qlora::data
