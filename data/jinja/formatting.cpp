#include "data/jinja/formatting.h"

#include <algorithm>

#include "data/jinja/interpreter.h"

namespace qlora::data::jinja {

std::string replace_text(Interpreter& in, std::string_view text, std::string_view from,
                         std::string_view to, int64_t most) {
  std::string out;
  int64_t done = 0;
  const auto put = [&] {
    in.reserve(static_cast<int64_t>(to.size()));
    out += to;
    ++done;
  };
  in.reserve(static_cast<int64_t>(text.size()));
  const auto may = [&] { return most < 0 || done < most; };
  if (from.empty()) {
    for (const std::string_view character : characters_of(text)) {
      if (may()) put();
      out += character;
    }
    if (may()) put();
    return out;
  }
  size_t begin = 0;
  for (size_t at; may() && (at = text.find(from, begin)) != std::string_view::npos;) {
    out += text.substr(begin, at - begin);
    put();
    begin = at + from.size();
  }
  out += text.substr(begin);
  return out;
}

std::string padded(Interpreter& in, std::string_view text, int64_t width, std::string_view fill,
                   Side keeps) {
  const auto length = static_cast<int64_t>(count_characters(text));
  const int64_t missing = std::max<int64_t>(width - length, 0);
  if (missing > kMaxValueBytes / 4) throw Fault("a text is filled up to too great a width");
  in.reserve(missing * static_cast<int64_t>(fill.size()));
  int64_t left = keeps == Side::kRight ? missing : 0;
  // Python's center: the odd one goes to the left where the width is odd.
  if (keeps == Side::kBoth) left = missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (int64_t i = left; i < missing; ++i) out += fill;
  return out;
}

}  // namespace qlora::data::jinja
