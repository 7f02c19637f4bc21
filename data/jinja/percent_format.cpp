#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "data/jinja/format_spec.h"
#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

/// The values that "%" takes one by one, or by name.
class PercentValues {
 public:
  explicit PercentValues(const Value& values) : values_(values) {
    if (values.is_tuple()) items_ = values.as<const Sequence>()->items;
  }
  Value named(const std::string& name) {
    const auto* dict = values_.as<const Dict>();
    if (!dict) throw Fault("'%(name)s' needs a dictionary");
    used_names_ = true;
    const Value* found = dict->find_text(name);
    if (!found)
      throw Fault(fmt::format("the format names {}, which is not given", io::quote(name)));
    return *found;
  }
  Value next() {
    if (!values_.is_tuple()) {
      if (at_++ == 0) return values_;
    } else if (at_ < items_.size()) {
      return items_[at_++];
    }
    throw Fault("a format has more places than values");
  }
  void finish() const {
    const bool all_used = values_.is_tuple() ? at_ == items_.size()
                                             : at_ == 1 || used_names_ ||
                                                   values_.as<const Dict>() || values_.is_list();
    if (!all_used) throw Fault("a format has fewer places than values");
  }

 private:
  const Value& values_;
  std::vector<Value> items_;
  size_t at_ = 0;
  bool used_names_ = false;
};

FormatSpec percent_spec(std::string_view text, size_t& at, PercentValues& values) {
  FormatSpec spec;
  spec.align = '>';
  bool is_left = false, has_zero = false;
  for (; at < text.size() && std::string_view("-+ 0#").find(text[at]) != std::string_view::npos;
       ++at) {
    const char flag = text[at];
    is_left = is_left || flag == '-';
    has_zero = has_zero || flag == '0';
    spec.alternate = spec.alternate || flag == '#';
    if (flag == '+' || (flag == ' ' && spec.sign != '+')) spec.sign = flag;
  }
  const auto number = [&] {
    int64_t n = 0;
    if (at >= text.size() || text[at] != '*') return read_format_number(text, at);
    ++at;
    if (!values.next().to_int(n) || n > kMaxFormatWidth || n < -kMaxFormatWidth) {
      throw Fault(fmt::format("the width of a format is no number up to {}", kMaxFormatWidth));
    }
    return n;
  };
  spec.width = number();
  if (spec.width < 0) {
    is_left = true;
    spec.width = -spec.width;
  }
  if (at < text.size() && text[at] == '.') {
    ++at;
    spec.precision = std::max<int64_t>(number(), 0);
  }
  if (has_zero && !is_left) {
    spec.fill = "0";
    spec.align = '=';
  }
  if (is_left) spec.align = '<';
  while (at < text.size() && (text[at] == 'l' || text[at] == 'h' || text[at] == 'L')) ++at;
  if (at >= text.size()) throw Fault("a format ends behind '%'");
  spec.type = text[at++];
  return spec;
}

std::string percent_field(Interpreter& in, FormatSpec spec, const Value& value) {
  double x = 0;
  int64_t n = 0;
  const char type = spec.type;
  if (type == 's' || type == 'r') {
    spec.align = spec.align == '<' ? '<' : '>';
    spec.fill = " ";
    return text_field(in, spec, type == 's' ? to_text(value) : to_repr(value));
  }
  if (type == 'c' && value.is_text() && count_characters(value.text()) == 1) {
    return text_field(in, spec, value.text());
  }
  const bool is_decimal = type == 'd' || type == 'i' || type == 'u';
  if (is_decimal || type == 'x' || type == 'X' || type == 'o') {
    if (is_decimal && value.is_float() && value.to_double(x) && std::abs(x) < 9e18) {
      n = static_cast<int64_t>(x);
    } else if (!value.to_int(n)) {
      throw Fault(fmt::format("'%{}' is given a {}, expected a number", type, value.type_name()));
    }
    if (is_decimal) spec.type = 'd';
    return integer_field(in, spec, n);
  }
  if (type == 'f' || type == 'F' || type == 'e') {
    if (!value.to_double(x)) {
      throw Fault(fmt::format("'%{}' is given a {}, expected a number", type, value.type_name()));
    }
    if (!std::isfinite(x) && spec.align == '=') spec.align = '>', spec.fill = " ";
    return float_field(in, spec, x);
  }
  throw Fault(fmt::format("the conversion '%{}' is not supported", io::quote({&type, 1})));
}

}  // namespace

std::string format_percent(Interpreter& in, const Value& pattern, const Value& values) {
  const std::string& text = pattern.text();
  in.reserve(pattern.bytes() + values.bytes());
  PercentValues given(values);
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const char c = text[at++];
    if (c != '%') {
      out += c;
      continue;
    }
    std::optional<std::string> name;
    if (at < text.size() && text[at] == '(') {
      const size_t end = text.find(')', at);
      if (end == std::string::npos) throw Fault("a format lacks a ')'");
      name = text.substr(at + 1, end - at - 1);
      at = end + 1;
    }
    const FormatSpec spec = percent_spec(text, at, given);
    if (spec.type == '%') {
      out += '%';
      continue;
    }
    const Value value = name ? given.named(*name) : given.next();
    in.reserve(value.bytes());
    out += percent_field(in, spec, value);
  }
  given.finish();
  return out;
}

}  // namespace qlora::data::jinja
