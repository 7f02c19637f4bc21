#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

#include "data/jinja/value.h"
#include "data/letter_case.h"
#include "data/utf8.h"

namespace qlora::data::jinja {

/// Python's float.__repr__: the shortest digits that give the number back; an exponent below 1e-4
/// and from 1e16 on.
std::string float_repr(double x) {
  if (std::isnan(x)) return "nan";
  if (std::isinf(x)) return x < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer;
  const auto end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), x, std::chars_format::scientific)
          .ptr;
  const std::string_view text(buffer.data(), static_cast<size_t>(end - buffer.data()));
  const size_t e = text.find('e');
  int exponent = 0;
  const char* digits = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits, end, exponent);
  if (exponent < -4 || exponent >= 16) {
    std::string out(text.substr(0, e));
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  const auto fixed_end =
      std::to_chars(buffer.data(), buffer.data() + buffer.size(), x, std::chars_format::fixed).ptr;
  std::string out(buffer.data(), fixed_end);
  if (out.find('.') == std::string::npos) out += ".0";
  return out;
}

namespace {

std::string text_repr(const TextData& data) {
  const std::string& text = data.text;
  const bool doubles = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = doubles ? '"' : '\'';
  std::string out = data.is_safe ? "Markup(" : "";
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_character(text, at);
    const auto number = static_cast<uint32_t>(code);
    if (code == '\\' || code == static_cast<char32_t>(quote)) {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (is_printable(code)) {
      out.append(text, begin, at - begin);
    } else if (code < 0x100) {
      out += fmt::format("\\x{:02x}", number);
    } else {
      out += code < 0x10000 ? fmt::format("\\u{:04x}", number) : fmt::format("\\U{:08x}", number);
    }
  }
  out += quote;
  if (data.is_safe) out += ')';
  return out;
}

void append_items(std::string& out, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i) out += ", ";
    out += to_repr(items[i]);
  }
}

std::string sequence_repr(const Value& value) {
  const auto& items = value.as<const Sequence>()->items;
  std::string out = value.is_tuple() ? "(" : "[";
  append_items(out, items);
  if (value.is_tuple() && items.size() == 1) out += ',';
  return out + (value.is_tuple() ? ")" : "]");
}

std::string dict_repr(const Dict& dict) {
  std::string out = "{";
  for (const auto& [key, item] : dict.entries()) {
    if (out.size() > 1) out += ", ";
    out += to_repr(key) + ": " + to_repr(item);
  }
  return out + "}";
}

}  // namespace

std::string to_repr(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (value.is_bool()) return std::get<bool>(value.data()) ? "True" : "False";
  if (value.is_int()) return std::to_string(std::get<int64_t>(value.data()));
  if (value.is_float()) return float_repr(std::get<double>(value.data()));
  if (const auto* t = value.as<const TextData>()) return text_repr(*t);
  if (value.as<const Sequence>()) return sequence_repr(value);
  if (const auto* d = value.as<const Dict>()) return dict_repr(*d);
  if (const auto* r = value.as<const Range>()) {
    if (r->step == 1) return fmt::format("range({}, {})", r->start, r->stop);
    return fmt::format("range({}, {}, {})", r->start, r->stop, r->step);
  }
  if (const auto* v = value.as<const View>()) {
    std::string out = std::string(v->name) + "([";
    append_items(out, v->items.items);
    return out + "])";
  }
  throw Fault(fmt::format("a {} cannot be printed", value.type_name()));
}

std::string to_text(const Value& value) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return {};
  return to_repr(value);
}

}  // namespace qlora::data::jinja
