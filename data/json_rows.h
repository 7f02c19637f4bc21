#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace qlora::data {

/// Parses a JSON text of a data set. What is no Unicode in it counts as U+FFFD: ill-formed UTF-8,
/// and the escape of half a surrogate pair ("\ud800").
///   throws    FormatError, as io::parse_strict_ordered_json
nlohmann::ordered_json parse_row_json(std::string_view text, std::string_view where);

/// Gives the objects of a JSON Lines file, or of one JSON array, one at a time; their keys keep
/// their order. Lines end with LF, CRLF or CR.
class JsonRows {
 public:
  /// text   outlives the reader; name is for messages
  JsonRows(std::string_view text, std::string name);

  /// The next object.
  ///   returns   false at the end
  ///   throws    FormatError, with file and line, for text that is not JSON or not an object
  bool next(nlohmann::ordered_json& row);
  int64_t line() const { return row_line_; }  // where the row begins, from 1

 private:
  bool next_line(std::string_view& row);
  bool next_item(std::string_view& row);
  void skip_space();
  nlohmann::ordered_json parse(std::string_view row) const;
  [[noreturn]] void fail(const char* what) const;

  std::string_view text_;
  std::string name_;
  bool is_array_ = false;
  bool is_first_ = true;
  size_t at_ = 0;
  int64_t line_ = 1;
  int64_t row_line_ = 0;
  size_t line_feed_ = 0;  // the next one, unless it is not behind at_
};

}  // namespace qlora::data
