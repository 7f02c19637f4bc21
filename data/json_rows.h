#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace qlora::data {

/// Gives the objects of a JSON Lines file, or of one JSON array, one at a time; their keys keep
/// their order.
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
  [[noreturn]] void fail(const char* what) const;

  std::string_view text_;
  std::string name_;
  bool is_array_ = false;
  bool is_first_ = true;
  size_t at_ = 0;
  int64_t line_ = 1;
  int64_t row_line_ = 0;
};

}  // namespace qlora::data
