#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/jinja/text_tools.h"
#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// "%s and %05.2f" % values: s r d i u f F x X o c %, flags - + 0 space #, width and precision.
///   throws    Fault for another conversion, and for values that do not fit
std::string format_percent(Interpreter& in, const Value& pattern, const Value& values);

/// "{} {0} {name.a[0]:>8.2f}".format(…); conversions !s and !r; types s d f x X e and none.
std::string format_braces(Interpreter& in, const std::string& pattern, Arguments& arguments);

/// str.replace: at most `most` times, negative: all. An empty `from` stands between all characters.
std::string replace_text(Interpreter& in, std::string_view text, std::string_view from,
                         std::string_view to, int64_t most);

/// Filled up to `width` characters; `keeps` says at which side the text stands.
std::string padded(Interpreter& in, std::string_view text, int64_t width, std::string_view fill,
                   Side keeps);

/// The text of json.dumps.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool is_indented = false;
  std::string indent;  // of one level
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(Interpreter& in, const Value& value, const JsonStyle& style);

}  // namespace qlora::data::jinja
