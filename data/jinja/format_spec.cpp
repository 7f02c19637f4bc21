#include "data/jinja/format_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"

namespace qlora::data::jinja {
namespace {

std::string grouped(const std::string& digits) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

/// Sign, prefix and digits, filled to the width.
std::string number_field(Interpreter& in, const FormatSpec& spec, bool is_negative,
                         const std::string& prefix, const std::string& digits) {
  std::string sign = is_negative ? "-" : spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
  const auto taken = static_cast<int64_t>(sign.size() + prefix.size());
  if (spec.align == '=') {
    return sign + prefix + padded(in, digits, spec.width - taken, spec.fill, Side::kRight);
  }
  const Side side = spec.align == '<'   ? Side::kLeft
                    : spec.align == '^' ? Side::kBoth
                                        : Side::kRight;
  return padded(in, sign + prefix + digits, spec.width, spec.fill, side);
}

}  // namespace

int64_t read_format_number(std::string_view text, size_t& at) {
  int64_t n = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    n = 10 * n + (text[at] - '0');
    if (n > kMaxFormatWidth)
      throw Fault(fmt::format("a format has a width above {}", kMaxFormatWidth));
  }
  return n;
}

std::string integer_field(Interpreter& in, const FormatSpec& spec, int64_t n) {
  const uint64_t size = n < 0 ? 0 - static_cast<uint64_t>(n) : static_cast<uint64_t>(n);
  std::string digits, prefix;
  switch (spec.type) {
    case 'x':
      digits = fmt::format("{:x}", size);
      prefix = "0x";
      break;
    case 'X':
      digits = fmt::format("{:X}", size);
      prefix = "0X";
      break;
    case 'o':
      digits = fmt::format("{:o}", size);
      prefix = "0o";
      break;
    default:
      digits = fmt::format("{}", size);
      if (spec.groups) digits = grouped(digits);
  }
  if (spec.precision && static_cast<int64_t>(digits.size()) < *spec.precision) {
    digits = padded(in, digits, *spec.precision, "0", Side::kRight);
  }
  return number_field(in, spec, n < 0, spec.alternate ? prefix : "", digits);
}

std::string float_field(Interpreter& in, const FormatSpec& spec, double x) {
  const auto places = static_cast<int>(spec.precision.value_or(6));
  if (places > 500) throw Fault("a format has more than 500 digits behind the point");
  std::string digits;
  const double size = std::abs(x);
  if (std::isnan(x) || std::isinf(x)) {
    digits = std::isnan(x) ? "nan" : "inf";
  } else if (spec.type == 'e') {
    digits = fmt::format("{:.{}e}", size, places);
  } else {
    digits = fmt::format("{:.{}f}", size, places);
    if (spec.groups) {
      const size_t point = std::min(digits.find('.'), digits.size());
      digits = grouped(digits.substr(0, point)) + digits.substr(point);
    }
  }
  return number_field(in, spec, std::signbit(x) && !std::isnan(x), "", digits);
}

std::string text_field(Interpreter& in, const FormatSpec& spec, std::string text) {
  if (spec.precision) {
    text.resize(byte_of_character(text, static_cast<size_t>(*spec.precision)));
  }
  const Side side = spec.align == '>'   ? Side::kRight
                    : spec.align == '^' ? Side::kBoth
                                        : Side::kLeft;
  return padded(in, text, spec.width, spec.fill, side);
}

}  // namespace qlora::data::jinja
