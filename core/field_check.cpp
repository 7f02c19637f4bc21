#include "core/field_check.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace qlora::detail {
namespace {

using Kind = FieldType::Kind;

// Above this not every whole number is a double, so that 1e17 may not be what its writer meant.
constexpr double kMaxExactWhole = 9007199254740992.0;  // 2^53

std::optional<Json> as_integer(const FieldType& type, const Json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (!(std::abs(number) <= kMaxExactWhole) || number != std::floor(number)) return std::nullopt;
    return as_integer(type, Json(static_cast<int64_t>(number)));
  }
  if (!value.is_number_integer()) return std::nullopt;
  const bool is_negative = !value.is_number_unsigned() && value.get<int64_t>() < 0;
  const bool fits =
      is_negative ? value.get<int64_t>() >= type.lowest : value.get<uint64_t>() <= type.highest;
  return fits ? std::optional<Json>(value) : std::nullopt;
}

std::optional<Json> as_number(const Json& value) {
  if (!value.is_number() || !std::isfinite(value.get<double>())) return std::nullopt;
  return value.get<double>();
}

// A name may look like a number: "group_size": 64 is as good as "64".
std::optional<Json> as_text(const FieldType& type, const Json& value) {
  const auto& names = type.names;
  if (value.is_number_integer() && !names.empty()) return as_text(type, Json(value.dump()));
  if (!value.is_string()) return std::nullopt;
  const bool known =
      names.empty() || std::count(names.begin(), names.end(), value.get<std::string>()) > 0;
  return known ? std::optional<Json>(value) : std::nullopt;
}

std::optional<Json> as_text_list(const Json& value) {
  if (value.is_string()) return Json::array({value});
  if (!value.is_array()) return std::nullopt;
  const bool all = std::all_of(value.begin(), value.end(), [](auto& v) { return v.is_string(); });
  return all ? std::optional<Json>(value) : std::nullopt;
}

std::optional<Json> as_map(const FieldType& type, const Json& value) {
  if (!value.is_object()) return std::nullopt;
  Json map = Json::object();
  for (const auto& [key, item] : value.items()) {
    const auto number = type.kind == Kind::kIntegerMap ? as_integer(type, item) : as_number(item);
    if (!number) return std::nullopt;
    map[key] = *number;
  }
  return map;
}

std::string quoted_list(const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) all.push_back(quoted(name));
  return fmt::format("{}", fmt::join(all, ", "));
}

std::string range_text(const Constraint& c) {
  const bool has_low = std::isfinite(c.low), has_high = std::isfinite(c.high);
  const char* above = c.low_is_open ? ">" : ">=";
  if (has_low && has_high && !c.low_is_open) return fmt::format("{} to {}", c.low, c.high);
  if (has_low && has_high) return fmt::format("> {} and <= {}", c.low, c.high);
  if (has_low) return fmt::format("{} {}", above, c.low);
  if (has_high) return fmt::format("<= {}", c.high);
  return "";
}

// A sentence for the two slips that people make most.
std::string advice(const FieldType& type, const Json& value) {
  const bool wants_number = type.kind == Kind::kInteger || type.kind == Kind::kNumber;
  if (value.is_string() && (wants_number || type.kind == Kind::kBool)) {
    const Json inside = Json::parse(value.get<std::string>(), nullptr, false);
    if (normalised(type, inside)) return "; write it without quotes";
  }
  if (value.is_null()) return "; leave the key out for its default";
  return "";
}

}  // namespace

std::optional<Json> normalised(const FieldType& type, const Json& value) {
  if (value.is_null()) return type.is_optional ? std::optional<Json>(value) : std::nullopt;
  switch (type.kind) {
    case Kind::kBool:
      return value.is_boolean() ? std::optional<Json>(value) : std::nullopt;
    case Kind::kInteger:
      return as_integer(type, value);
    case Kind::kNumber:
      return as_number(value);
    case Kind::kText:
      return as_text(type, value);
    case Kind::kTextList:
      return as_text_list(value);
    case Kind::kIntegerMap:
    case Kind::kNumberMap:
      return as_map(type, value);
  }
  return std::nullopt;
}

bool satisfies(const Json& value, const Constraint& c) {
  if (value.is_number()) {
    const double number = value.get<double>();
    return (c.low_is_open ? number > c.low : number >= c.low) && number <= c.high;
  }
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (c.filled && text.empty()) return false;
    return c.choices.empty() || std::count(c.choices.begin(), c.choices.end(), text) > 0;
  }
  if (!value.is_structured()) return true;
  if (c.filled && value.empty()) return false;
  return std::all_of(value.begin(), value.end(), [&](auto& item) { return satisfies(item, c); });
}

std::string type_text(const FieldType& type) {
  switch (type.kind) {
    case Kind::kBool:
      return "true or false";
    case Kind::kInteger:
      return "a whole number";
    case Kind::kNumber:
      return "a number";
    case Kind::kText:
      return "a string";
    case Kind::kTextList:
      return "a string or a list of strings";
    case Kind::kIntegerMap:
      return "an object of whole numbers";
    case Kind::kNumberMap:
      return "an object of numbers";
  }
  return "";
}

std::string constraint_text(const FieldType& type, const Constraint& c) {
  std::vector<std::string> parts;
  if (!type.names.empty()) parts.push_back("one of " + quoted_list(type.names));
  if (!c.choices.empty()) parts.push_back("one of " + quoted_list(c.choices));
  if (const std::string range = range_text(c); !range.empty()) parts.push_back(range);
  if (c.filled) parts.push_back("not empty");
  if (type.is_optional) parts.push_back("or null");
  return fmt::format("{}", fmt::join(parts, ", "));
}

std::string allowed_text(const Field& field) {
  std::string text = type_text(field.type);
  const std::string more = constraint_text(field.type, field.constraint);
  if (!more.empty()) text += (more.starts_with("or ") ? " " : ", ") + more;
  const bool is_integer = field.type.kind == Kind::kInteger;
  if (!is_integer || !std::isinf(field.constraint.high)) return text;
  const bool has_no_sign = field.type.lowest == 0 && std::isinf(field.constraint.low);
  return text + fmt::format(", {} {}", has_no_sign ? "0 to" : "at most", field.type.highest);
}

std::string quoted(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string actual_text(const Json& value) {
  constexpr size_t kMaxShown = 60;
  if (value.is_number_float()) {  // JSON has no word for some of them
    const double number = value.get<double>();
    if (!std::isfinite(number)) return fmt::format("{}", number);
  }
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_object()) return fmt::format("an object of {}", value.size());
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxShown) {
    size_t cut = kMaxShown;
    while ((text[cut] & 0xC0) == 0x80) --cut;  // not inside a UTF-8 character
    text = text.substr(0, cut) + "…\"";
  }
  return value.is_string() ? "the string " + text : text;
}

void assign(const Field& field, const Json& value, const std::string& path,
            const std::string& place) {
  const auto accepted = normalised(field.type, value);
  QLORA_CHECK(accepted && satisfies(*accepted, field.constraint), ConfigError,
              "[config] {} is {}, allowed: {}{}{}{}", path, actual_text(value), allowed_text(field),
              advice(field.type, value), place.empty() ? "" : " ", place);
  field.set(*accepted);
}

}  // namespace qlora::detail
