#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"
#include "data/utf8.h"

namespace qlora::data::jinja {
namespace {

void append_escaped(std::string& out, char32_t unit) {
  out += fmt::format("\\u{:04x}", static_cast<uint32_t>(unit));
}

/// Writes what json.dumps of Python's standard library writes.
class JsonWriter {
 public:
  JsonWriter(Interpreter& in, const JsonStyle& style) : in_(in), style_(style) {}

  void write(const Value& value, int level) {
    in_.reserve(8);
    if (value.is_none()) {
      out_ += "null";
    } else if (value.is_bool()) {
      out_ += value.truth() ? "true" : "false";
    } else if (value.is_int()) {
      out_ += std::to_string(std::get<int64_t>(value.data()));
    } else if (value.is_float()) {
      number(std::get<double>(value.data()));
    } else if (value.is_text()) {
      string(value.text());
    } else if (const auto* sequence = value.as<const Sequence>()) {
      list(sequence->items, level);
    } else if (const auto* dict = value.as<const Dict>()) {
      object(*dict, level);
    } else {
      throw Fault(fmt::format("a {} cannot be written as JSON", value.type_name()));
    }
  }
  std::string take() { return std::move(out_); }

 private:
  void number(double x) {
    out_ += std::isnan(x)   ? "NaN"
            : std::isinf(x) ? (x < 0 ? "-Infinity" : "Infinity")
                            : float_repr(x);
  }

  void string(const std::string& text) {
    in_.reserve(static_cast<int64_t>(text.size()));
    out_ += '"';
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const char32_t code = next_character(text, at);
      constexpr std::string_view kFrom = "\"\\\n\r\t\f\b", kTo = "\"\\nrtfb";
      const size_t known = code < 0x80 ? kFrom.find(static_cast<char>(code)) : std::string::npos;
      if (known != std::string::npos) {
        out_ += '\\';
        out_ += kTo[known];
      } else if (code < 0x20 || (style_.ensure_ascii && code >= 0x7F && code < 0x10000)) {
        append_escaped(out_, code);
      } else if (style_.ensure_ascii && code >= 0x10000) {
        append_escaped(out_, 0xD800 + ((code - 0x10000) >> 10));
        append_escaped(out_, 0xDC00 + ((code - 0x10000) & 0x3FF));
      } else {
        out_.append(text, begin, at - begin);
      }
    }
    out_ += '"';
  }

  void line(int level) {
    if (!style_.is_indented) return;
    in_.reserve(level * static_cast<int64_t>(style_.indent.size()));
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += style_.indent;
  }

  void list(const std::vector<Value>& items, int level) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) out_ += style_.item_separator;
      line(level + 1);
      write(items[i], level + 1);
    }
    if (!items.empty()) line(level);
    out_ += ']';
  }

  void object(const Dict& dict, int level) {
    auto entries = dict.entries();
    if (style_.sort_keys) {
      in_.spend(16 * dict.bytes());
      std::stable_sort(entries.begin(), entries.end(),
                       [](const auto& a, const auto& b) { return less(a.first, b.first); });
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i) out_ += style_.item_separator;
      line(level + 1);
      key(entries[i].first);
      out_ += style_.key_separator;
      write(entries[i].second, level + 1);
    }
    if (!entries.empty()) line(level);
    out_ += '}';
  }

  void key(const Value& value) {
    if (value.is_text()) return string(value.text());
    if (!value.is_number() && !value.is_none()) {
      throw Fault(fmt::format("a {} cannot be a key in JSON", value.type_name()));
    }
    out_ += '"';
    write(value, 0);
    out_ += '"';
  }

  Interpreter& in_;
  const JsonStyle& style_;
  std::string out_;
};

}  // namespace

Value from_json(const nlohmann::ordered_json& json) {
  if (json.is_boolean()) return json.get<bool>();
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    throw Fault("a whole number grows beyond 64 bits");
  }
  if (json.is_number_integer()) return json.get<int64_t>();
  if (json.is_number()) return json.get<double>();
  if (json.is_string()) return Value(json.get_ref<const std::string&>());
  if (json.is_array()) {
    std::vector<Value> items;
    for (const auto& item : json) items.push_back(from_json(item));
    return Value::list(std::move(items));
  }
  if (!json.is_object()) return {};
  Dict dict;
  for (const auto& [key, item] : json.items()) dict.set(Value(key), from_json(item));
  return Value::dict(std::move(dict));
}

std::string to_json(Interpreter& in, const Value& value, const JsonStyle& style) {
  JsonWriter writer(in, style);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace qlora::data::jinja
