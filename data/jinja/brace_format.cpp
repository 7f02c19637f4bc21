#include <fmt/format.h>

#include <algorithm>

#include "data/jinja/access.h"
#include "data/jinja/format_spec.h"
#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

FormatSpec brace_spec(const std::string& text) {
  FormatSpec spec;
  size_t at = 0;
  const auto is_align = [&](size_t i) {
    return i < text.size() && std::string_view("<>^=").find(text[i]) != std::string_view::npos;
  };
  const size_t fill = text.empty() ? 0 : byte_of_character(text, 1);
  if (fill > 0 && is_align(fill)) {
    spec.fill = text.substr(0, fill);
    spec.align = text[fill];
    at = fill + 1;
  } else if (is_align(0)) {
    spec.align = text[at++];
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) {
    spec.sign = text[at++];
  }
  if (at < text.size() && text[at] == '#') spec.alternate = true, ++at;
  if (at < text.size() && text[at] == '0') {
    if (!spec.align) spec.align = '=', spec.fill = "0";
    ++at;
  }
  spec.width = read_format_number(text, at);
  if (at < text.size() && text[at] == ',') spec.groups = true, ++at;
  if (at < text.size() && text[at] == '.') {
    const size_t digits = ++at;
    spec.precision = read_format_number(text, at);
    if (at == digits) throw Fault("a format lacks its precision");
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size())
    throw Fault(fmt::format("the format {} is not supported", io::quote(text)));
  return spec;
}

std::string brace_field(Interpreter& in, const Value& value, const std::string& text) {
  if (text.empty()) return to_text(value);
  const FormatSpec spec = brace_spec(text);
  double x = 0;
  int64_t n = 0;
  const bool is_float_type = spec.type == 'f' || spec.type == 'e';
  if (value.is_text() && (spec.type == 's' || !spec.type) && spec.align != '=') {
    return text_field(in, spec, value.text());
  }
  const bool is_int_type =
      !spec.type || spec.type == 'd' || spec.type == 'x' || spec.type == 'X' || spec.type == 'o';
  if (is_int_type && !spec.precision && value.is_int() && value.to_int(n)) {
    return integer_field(in, spec, n);
  }
  if (is_float_type && value.to_double(x)) return float_field(in, spec, x);
  throw Fault(
      fmt::format("the format {} of a {} is not supported", io::quote(text), value.type_name()));
}

/// "name.attribute[index]" of a replacement field.
Value brace_value(const std::string& field, Arguments& arguments, int64_t& automatic) {
  const size_t end = std::min(field.find_first_of(".["), field.size());
  const std::string first = field.substr(0, end);
  Value value;
  const bool is_number = std::all_of(first.begin(), first.end(), is_digit);
  if (is_number) {
    size_t at = 0;
    const int64_t index = first.empty() ? automatic++ : read_format_number(first, at);
    if (index >= static_cast<int64_t>(arguments.positional.size())) {
      throw Fault("format() has more places than values");
    }
    value = arguments.positional[static_cast<size_t>(index)];
  } else {
    const auto named = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& argument) { return argument.first == first; });
    if (named == arguments.named.end()) {
      throw Fault(fmt::format("format() names {}, which is not given", io::quote(first)));
    }
    value = named->second;
  }
  for (size_t at = end; at < field.size();) {
    const bool is_item = field[at] == '[';
    const size_t begin = at + 1;
    const size_t stop =
        is_item ? field.find(']', begin) : std::min(field.find_first_of(".[", begin), field.size());
    if (stop == std::string::npos || stop == begin || (!is_item && field[at] != '.')) {
      throw Fault(fmt::format("format() cannot read the field {}", io::quote(field)));
    }
    const std::string name = field.substr(begin, stop - begin);
    size_t digits = 0;
    const bool is_index = is_item && std::all_of(name.begin(), name.end(), is_digit);
    value = is_index  ? item_of(value, read_format_number(name, digits))
            : is_item ? item_of(value, Value(name))
                      : attribute_of(value, name);
    at = stop + is_item;
  }
  return value;
}

}  // namespace

std::string format_braces(Interpreter& in, const std::string& pattern, Arguments& arguments) {
  std::string out;
  int64_t automatic = 0;
  for (size_t at = 0; at < pattern.size(); ++at) {
    const char c = pattern[at];
    const bool is_double = at + 1 < pattern.size() && pattern[at + 1] == c;
    if (c != '{' && c != '}') {
      out += c;
    } else if (is_double) {
      out += c;
      ++at;
    } else if (c == '}') {
      throw Fault("format() has a single '}'");
    } else {
      const size_t end = pattern.find_first_of("{}", at + 1);
      if (end == std::string::npos || pattern[end] == '{') {
        throw Fault("format() has a field that is not closed, or one within another");
      }
      std::string field = pattern.substr(at + 1, end - at - 1), spec;
      if (const size_t colon = field.find(':'); colon != std::string::npos) {
        spec = field.substr(colon + 1);
        field.resize(colon);
      }
      char conversion = '\0';
      if (const size_t mark = field.find('!'); mark != std::string::npos) {
        if (mark + 2 != field.size()) throw Fault("format() has a conversion that is not read");
        conversion = field[mark + 1];
        field.resize(mark);
      }
      Value value = brace_value(field, arguments, automatic);
      in.reserve(value.bytes());
      if (conversion == 's') value = Value(to_text(value));
      if (conversion == 'r') value = Value(to_repr(value));
      if (conversion && conversion != 's' && conversion != 'r') {
        throw Fault("format() has a conversion that is not !s or !r");
      }
      out += brace_field(in, value, spec);
      at = end;
    }
  }
  return out;
}

}  // namespace qlora::data::jinja
