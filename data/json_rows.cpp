#include "data/json_rows.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/utf8.h"
#include "io/strict_json.h"

namespace qlora::data {

JsonRows::JsonRows(std::string_view text, std::string name) : text_(text), name_(std::move(name)) {
  skip_space();
  is_array_ = at_ < text_.size() && text_[at_] == '[';
  if (is_array_) ++at_;
}

void JsonRows::skip_space() {
  for (;
       at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos;
       ++at_) {
    line_ += text_[at_] == '\n';
  }
}

void JsonRows::fail(const char* what) const {
  throw FormatError(fmt::format("[data] {}:{}: {}", name_, line_, what));
}

bool JsonRows::next_line(std::string_view& row) {
  skip_space();
  if (at_ >= text_.size()) return false;
  row_line_ = line_;
  const size_t end = std::min(text_.find('\n', at_), text_.size());
  row = text_.substr(at_, end - at_);
  at_ = end;
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
    if (at_ >= text_.size() || text_[at_] != ',') fail("expected ',' or ']' in the array");
    ++at_;
    skip_space();
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
  if (at_ >= text_.size()) fail("the array is not closed");
  fail("a row is not an object");
}

bool JsonRows::next(nlohmann::ordered_json& row) {
  std::string_view text;
  if (!(is_array_ ? next_item(text) : next_line(text))) return false;
  const std::string where = fmt::format("{}:{}", name_, row_line_);
  const bool is_valid = valid_utf8_prefix(text) == text.size();
  row = io::parse_strict_ordered_json(is_valid ? std::string(text) : replace_invalid_utf8(text),
                                      where);
  QLORA_CHECK(row.is_object(), FormatError, "[data] {}: a row is {}, expected an object", where,
              row.type_name());
  return true;
}

}  // namespace qlora::data
