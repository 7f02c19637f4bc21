#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data {

/// Reads RFC 4180 row by row: quoted fields with commas, line ends and doubled quotes. A row ends
/// with LF, CRLF or CR, mixed as it may be; empty lines are passed over. A quote inside an unquoted
/// field stands for itself.
class CsvReader {
 public:
  /// text   outlives the reader; name is for messages
  CsvReader(std::string_view text, std::string name);

  /// The next row's fields.
  ///   returns   false at the end
  ///   throws    FormatError, with file and line, for a quote that is not closed or that is
  ///   followed
  ///             by something other than a comma or a line end
  bool next(std::vector<std::string>& fields);
  int64_t line() const { return row_line_; }  // where the row that next() gave begins, from 1

 private:
  bool read_field(std::string& field);  // false: it was the row's last
  bool read_quoted(std::string& field);
  bool end_field();
  bool at_line_end() const;

  std::string_view text_;
  std::string name_;
  size_t at_ = 0;
  int64_t line_ = 1;
  int64_t row_line_ = 0;
};

}  // namespace qlora::data
