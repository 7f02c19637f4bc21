#include "io/file_kind.h"

#include <algorithm>

#include "core/error.h"

namespace qlora::io {
namespace {

using std::string_view_literals::operator""sv;

struct Kind {
  std::string_view start;
  const char* message;
};

constexpr Kind kKinds[] = {
    {"\x1F\x8B"sv, "is packed with gzip; unpack it first"},
    {"\x28\xB5\x2F\xFD"sv, "is packed with zstd; unpack it first"},
    {"\xFD"
     "7zXZ\0"sv,
     "is packed with xz; unpack it first"},
    {"PK\x03\x04"sv, "is a zip archive or a spreadsheet; unpack it, or save it as text"},
    {"ARROW1\0\0"sv, "is an Arrow table; save its rows as .jsonl or .csv"},
    {"\xFF\xFE\0\0"sv, "is UTF-32; save it as UTF-8"},
    {"\xFF\xFE"sv, "is UTF-16; save it as UTF-8"},
    {"\xFE\xFF"sv, "is UTF-16; save it as UTF-8"}};

bool is_html(std::string_view content) {
  const size_t begin = content.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return false;
  const auto starts = [&, text = content.substr(begin)](std::string_view tag) {
    return text.size() >= tag.size() &&
           std::equal(tag.begin(), tag.end(), text.begin(), [](char wanted, char c) {
             return wanted == (c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
           });
  };
  return starts("<!doctype html") || starts("<html");
}

/// ASCII in two bytes each, without a byte order mark: no text of the first two characters is so
/// in UTF-8.
bool is_bare_utf16(std::string_view content) {
  if (content.size() < 4) return false;
  const auto is_ascii = [&](size_t i) { return content[i] > 0; };
  const auto is_zero = [&](size_t i) { return content[i] == 0; };
  return (is_ascii(0) && is_zero(1) && is_ascii(2) && is_zero(3)) ||
         (is_zero(0) && is_ascii(1) && is_zero(2) && is_ascii(3));
}

const char* placeholder(std::string_view content) {
  if (content.starts_with("version https://git-lfs.github.com/")) {
    return "is a pointer of Git LFS, not the file itself; fetch that with `git lfs pull`";
  }
  if (is_html(content)) {
    return "is an HTML page, as a download that failed leaves it; fetch the file again";
  }
  return nullptr;
}

const char* other_kind(std::string_view content) {
  if (const char* message = placeholder(content)) return message;
  for (const auto& [start, message] : kKinds) {
    if (content.starts_with(start)) return message;
  }
  if (content.starts_with("PAR1") && content.ends_with("PAR1")) {
    return "is a Parquet table; save its rows as .jsonl or .csv";
  }
  return is_bare_utf16(content) ? "is UTF-16; save it as UTF-8" : nullptr;
}

}  // namespace

void refuse_placeholder(std::string_view content, std::string_view where) {
  const char* message = placeholder(content);
  QLORA_CHECK(message == nullptr, FormatError, "{} {}", where, message);
}

void refuse_other_kind(std::string_view content, std::string_view where) {
  const char* message = other_kind(content);
  QLORA_CHECK(message == nullptr, FormatError, "{} {}", where, message);
}

}  // namespace qlora::io
