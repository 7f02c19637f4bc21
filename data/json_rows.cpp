#include "data/json_rows.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/error.h"
#include "data/utf8.h"
#include "io/strict_json.h"

namespace qlora::data {
namespace {

constexpr const char* kNotClosed = "the array is not closed: the file ends too early";

/// The number behind "\u" at `at`; nothing where no four digits follow.
std::optional<uint32_t> escaped_unit(std::string_view text, size_t at) {
  if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return std::nullopt;
  uint32_t unit = 0;
  const char* end = text.data() + at + 6;
  const auto [read, error] = std::from_chars(end - 4, end, unit, 16);
  return error == std::errc() && read == end ? std::optional(unit) : std::nullopt;
}

/// JSON with "\ufffd" for every escape of half a surrogate pair without the other half.
std::string replace_lone_surrogates(std::string_view json) {
  std::string out(json);
  for (size_t at = 0; (at = out.find('\\', at)) != std::string::npos;) {
    const auto unit = escaped_unit(out, at);
    if (!unit || *unit < 0xD800 || *unit > 0xDFFF) {
      at += 2;  // the backslash, and what it escapes
      continue;
    }
    const auto next = *unit < 0xDC00 ? escaped_unit(out, at + 6) : std::nullopt;
    const bool is_pair = next && *next >= 0xDC00 && *next <= 0xDFFF;
    if (!is_pair) out.replace(at + 2, 4, "fffd");
    at += is_pair ? 12 : 6;
  }
  return out;
}

bool has_surrogate(std::string_view json) {
  return json.find("\\ud") != std::string_view::npos || json.find("\\uD") != std::string_view::npos;
}

}  // namespace

nlohmann::ordered_json parse_row_json(std::string_view text, std::string_view where) {
  const bool is_valid = valid_utf8_prefix(text) == text.size();
  const std::string json = is_valid ? std::string(text) : replace_invalid_utf8(text);
  return io::parse_strict_ordered_json(has_surrogate(json) ? replace_lone_surrogates(json) : json,
                                       where);
}

JsonRows::JsonRows(std::string_view text, std::string name) : text_(text), name_(std::move(name)) {
  skip_space();
  is_array_ = at_ < text_.size() && text_[at_] == '[';
  if (is_array_) ++at_;
}

void JsonRows::skip_space() {
  for (;
       at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos;
       ++at_) {
    const bool is_crlf = text_[at_] == '\r' && text_.substr(at_ + 1).starts_with('\n');
    line_ += text_[at_] == '\n' || (text_[at_] == '\r' && !is_crlf);
  }
}

void JsonRows::fail(const char* what) const {
  throw FormatError(fmt::format("[data] {}:{}: {}", name_, line_, what));
}

bool JsonRows::next_line(std::string_view& row) {
  skip_space();
  if (at_ >= text_.size()) return false;
  row_line_ = line_;
  if (line_feed_ <= at_) line_feed_ = std::min(text_.find('\n', at_), text_.size());
  row = text_.substr(at_, line_feed_ - at_);
  row = row.substr(0, row.find('\r'));  // which stands in no JSON text but between its parts
  at_ += row.size();
  return true;
}

/// Finds the end of an array's item by its brackets; the JSON parser judges what is inside.
bool JsonRows::next_item(std::string_view& row) {
  skip_space();
  if (at_ < text_.size() && text_[at_] == ']') {
    ++at_;
    skip_space();
    if (at_ < text_.size()) fail("text after the end of the array");
    return false;
  }
  if (!is_first_) {
    if (at_ >= text_.size()) fail(kNotClosed);
    if (text_[at_] != ',') fail("expected ',' or ']' in the array");
    ++at_;
    skip_space();
    if (text_.substr(at_).starts_with(']')) fail("a comma stands before the closing ]; remove it");
  }
  is_first_ = false;
  row_line_ = line_;
  const size_t begin = at_;
  int depth = 0;
  for (bool in_text = false; at_ < text_.size(); ++at_) {
    const char c = text_[at_];
    line_ += c == '\n';
    if (in_text) {
      if (c == '\\') ++at_;
      in_text = c != '"';
    } else if (c == '"') {
      in_text = true;
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == '}' || c == ']') {
      if (depth == 0) break;
      if (--depth == 0) {
        ++at_;
        row = text_.substr(begin, at_ - begin);
        return true;
      }
    } else if (depth == 0) {
      break;  // a number, true … : no object
    }
  }
  if (at_ >= text_.size()) fail(kNotClosed);
  fail("a row is not an object");
}

nlohmann::ordered_json JsonRows::parse(std::string_view row) const {
  const std::string where = fmt::format("{}:{}", name_, row_line_);
  QLORA_CHECK(row.find('\0') == std::string_view::npos, FormatError,
              "[data] {}: a zero byte at byte {} of the row: the file is damaged, or no text",
              where, row.find('\0') + 1);
  try {
    return parse_row_json(row, where);
  } catch (const FormatError& error) {
    if (is_array_ || nlohmann::json::accept(row)) throw;
    const bool goes_on = std::string_view("{[,").find(row.back()) != std::string_view::npos &&
                         !row.ends_with("},");  // the first line of an object over several
    if (!goes_on && row.back() != ',') throw;
    throw FormatError(fmt::format(
        "{}; {}", error.what(),
        goes_on ? "rows are one object a line, or one list [{…}, {…}] without an object around it"
                : "a row is one JSON object on one line, without a comma behind it"));
  }
}

bool JsonRows::next(nlohmann::ordered_json& row) {
  std::string_view text;
  if (!(is_array_ ? next_item(text) : next_line(text))) return false;
  row = parse(text);
  QLORA_CHECK(row.is_object(), FormatError, "[data] {}:{}: a row is {}, expected an object", name_,
              row_line_, row.type_name());
  return true;
}

}  // namespace qlora::data
