#include "data/csv.h"

#include "core/error.h"

namespace qlora::data {

CsvReader::CsvReader(std::string_view text, std::string name)
    : text_(text), name_(std::move(name)) {}

bool CsvReader::at_line_end() const {
  return at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r');
}

/// Passes over what ends a field: true for a comma, false for the end of the row.
bool CsvReader::end_field() {
  if (at_ >= text_.size()) return false;
  if (text_[at_] == ',') {
    ++at_;
    return true;
  }
  at_ += text_.substr(at_).starts_with("\r\n") ? 2 : 1;
  ++line_;
  return false;
}

bool CsvReader::read_quoted(std::string& field) {
  const int64_t begin_line = line_;
  for (++at_; at_ < text_.size(); ++at_) {
    const char c = text_[at_];
    if (c == '"') {
      if (at_ + 1 < text_.size() && text_[at_ + 1] == '"') {
        ++at_;
      } else {
        ++at_;
        QLORA_CHECK(at_ >= text_.size() || text_[at_] == ',' || at_line_end(), FormatError,
                    "[data] {}:{}: a closing quote is followed by more text; double the quote "
                    "inside a quoted field",
                    name_, line_);
        return end_field();
      }
    }
    if (c == '\n' || (c == '\r' && !text_.substr(at_ + 1).starts_with('\n'))) ++line_;
    field += c;
  }
  throw FormatError(
      fmt::format("[data] {}:{}: a quoted field is not closed; add the closing quote, or write a "
                  "quote that belongs to the text twice",
                  name_, begin_line));
}

bool CsvReader::read_field(std::string& field) {
  if (at_ < text_.size() && text_[at_] == '"') return read_quoted(field);
  while (at_ < text_.size() && text_[at_] != ',' && !at_line_end()) field += text_[at_++];
  return end_field();
}

bool CsvReader::next(std::vector<std::string>& fields) {
  while (at_line_end()) end_field();
  fields.clear();
  if (at_ >= text_.size()) return false;
  row_line_ = line_;
  while (read_field(fields.emplace_back())) {
  }
  return true;
}

}  // namespace qlora::data
