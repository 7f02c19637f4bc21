#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "data/jinja/arguments.h"
#include "data/jinja/filters.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/operators.h"
#include "data/jinja/text_tools.h"

namespace qlora::data::jinja {
namespace {

/// The digits of a number without Python's single underscores between them; nothing where they
/// stand elsewhere.
std::optional<std::string> plain_digits(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const auto is_digit = [&](size_t at) {
      return at < text.size() && std::isxdigit(static_cast<unsigned char>(text[at]));
    };
    if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) return std::nullopt;
  }
  return out;
}

/// int("…", base) of Python; nothing where it raises ValueError.
std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  text = strip(text, Side::kBoth);
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  const auto prefix_base = [&]() -> int64_t {
    if (text.size() < 2 || text[0] != '0') return 0;
    const char mark = static_cast<char>(text[1] | 0x20);
    return mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
  }();
  if (prefix_base && (base == 0 || base == prefix_base)) {
    text.remove_prefix(2);
    if (text.starts_with('_')) text.remove_prefix(1);
    base = prefix_base;
  } else if (base == 0) {
    base = 10;
    if (text.starts_with('0') && text.find_first_not_of("0_") != std::string_view::npos) {
      return std::nullopt;
    }
  }
  const auto digits = plain_digits(text);
  if (!digits || digits->empty() || base < 2 || base > 36 || (*digits)[0] == '-') {
    return std::nullopt;
  }
  uint64_t size = 0;
  const char *begin = digits->data(), *end = begin + digits->size();
  const auto [rest, error] = std::from_chars(begin, end, size, static_cast<int>(base));
  if (rest != end) return std::nullopt;
  const uint64_t limit = static_cast<uint64_t>(INT64_MAX) + is_negative;
  if (error != std::errc() || size > limit) throw Fault("a whole number grows beyond 64 bits");
  return static_cast<int64_t>(is_negative ? 0 - size : size);
}

/// float("…") of Python; nothing where it raises ValueError.
std::optional<double> parse_float(std::string_view text) {
  text = strip(text, Side::kBoth);
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  std::string low;
  for (const char c : text) low += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  if (low == "nan") return std::nan("");
  if (low == "inf" || low == "infinity") return is_negative ? -HUGE_VAL : HUGE_VAL;
  const bool is_decimal = !low.empty() &&
                          low.find_first_not_of("0123456789._e+-") == std::string::npos &&
                          low[0] != '+' && low[0] != '-';
  const auto digits = is_decimal ? plain_digits(low) : std::nullopt;
  if (!digits) return std::nullopt;
  double x = 0;
  const char *begin = digits->data(), *end = begin + digits->size();
  const auto [rest, error] = std::from_chars(begin, end, x);
  if (rest != end || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) {
    x = digits->find("e-") != std::string::npos ? 0.0 : HUGE_VAL;
  }
  return is_negative ? -x : x;
}

int64_t whole_part(double x) {
  if (!(std::abs(x) < 9223372036854775808.0)) throw Fault("a whole number grows beyond 64 bits");
  return static_cast<int64_t>(x);
}

[[noreturn]] void refuse_undefined(const Value& value) {
  throw Fault(*std::get<Undefined>(value.data()).why);
}

Value to_integer(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'int'", arguments, {"default", "base"});
  Value fallback = bound.or_else(0, Value(0));
  int64_t n = 0;
  double x = 0;
  if (value.is_undefined()) refuse_undefined(value);
  if (value.to_int(n)) return n;
  if (value.is_text()) {
    if (const auto whole = parse_integer(value.text(), bound.integer(1, 10))) return *whole;
    const auto real = parse_float(value.text());
    if (!real || !std::isfinite(*real)) return fallback;
    return whole_part(*real);
  }
  if (!value.to_double(x) || !std::isfinite(x)) return fallback;
  return whole_part(x);
}

Value to_float(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'float'", arguments, {"default"});
  double x = 0;
  if (value.is_undefined()) refuse_undefined(value);
  if (value.to_double(x)) return x;
  if (value.is_text()) {
    if (const auto real = parse_float(value.text())) return *real;
  }
  return bound.or_else(0, Value(0.0));
}

Value absolute(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'abs'", arguments, {});
  int64_t n = 0;
  double x = 0;
  if (value.to_int(n)) return n < 0 ? signed_value(value, true) : Value(n);
  if (value.to_double(x)) return std::abs(x);
  if (value.is_undefined()) refuse_undefined(value);
  throw Fault(fmt::format("the filter 'abs' is given a {}, expected a number", value.type_name()));
}

/// Python's round(x, places): to the nearest decimal, ties by the exact binary value.
double round_to(double x, int64_t places) {
  if (!std::isfinite(x) || places > 323) return x;
  if (places < -308) return std::copysign(0.0, x);
  if (places >= 0) {
    const std::string text = fmt::format("{:.{}f}", x, places);
    double out = x;
    std::from_chars(text.data(), text.data() + text.size(), out);
    return out;
  }
  const double unit = std::pow(10.0, static_cast<double>(-places));
  return std::nearbyint(x / unit) * unit;
}

Value round_number(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'round'", arguments, {"precision", "method"});
  const int64_t places = bound.integer(0, 0);
  const std::string method = bound.has(1) ? bound.text(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    throw Fault("the method of the filter 'round' is not common, ceil or floor");
  }
  double x = 0;
  if (value.is_undefined()) refuse_undefined(value);
  if (!value.to_double(x)) {
    throw Fault(
        fmt::format("the filter 'round' is given a {}, expected a number", value.type_name()));
  }
  if (method == "common") {
    int64_t n = 0;
    if (!value.to_int(n)) return round_to(x, places);
    if (places >= 0) return n;
    throw Fault("rounding a whole number to tens is not supported");
  }
  if (places < -300 || places > 300)
    throw Fault("the filter 'round' has such places no number has");
  const double unit = std::pow(10.0, static_cast<double>(places));
  const double scaled = method == "ceil" ? std::ceil(x * unit) : std::floor(x * unit);
  if (!std::isfinite(scaled)) throw Fault("a number is too large to be rounded");
  return scaled / unit;
}

}  // namespace

const FilterTable& number_filters() {
  static const FilterTable table = {
      {"abs", absolute}, {"float", to_float}, {"int", to_integer}, {"round", round_number}};
  return table;
}

}  // namespace qlora::data::jinja
