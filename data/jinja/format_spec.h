#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

inline constexpr int64_t kMaxFormatWidth = 1 << 20;

/// Flags, width and precision of one conversion.
struct FormatSpec {
  std::string fill = " ";
  char align = '\0';  // < > ^ =, or none
  char sign = '-';
  bool alternate = false;
  bool groups = false;  // thousands with commas
  int64_t width = 0;
  std::optional<int64_t> precision;
  char type = '\0';
};

// One value as a conversion writes it.
std::string integer_field(Interpreter& in, const FormatSpec& spec, int64_t n);
std::string float_field(Interpreter& in, const FormatSpec& spec, double x);
std::string text_field(Interpreter& in, const FormatSpec& spec, std::string text);

/// The digits at `at`, which moves behind them; 0 where there are none.
///   throws   Fault above kMaxFormatWidth
int64_t read_format_number(std::string_view text, size_t& at);

}  // namespace qlora::data::jinja
