#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/jinja/access.h"
#include "data/jinja/arguments.h"
#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/text_tools.h"
#include "data/letter_case.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

using Method = Value (*)(Interpreter&, const Value&, Arguments&);

// Methods that Python's str has and this program has not.
constexpr std::array<std::string_view, 17> kUnknown = {
    "casefold", "encode",       "expandtabs", "format_map", "isalnum",     "isdecimal",
    "isascii",  "isidentifier", "islower",    "isnumeric",  "isprintable", "istitle",
    "isupper",  "maketrans",    "swapcase",   "translate",  "isalpha"};

template <std::string (*kChange)(std::string_view)>
Value change(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("a method without arguments", arguments, {});
  in.reserve(self.bytes());
  return Value(kChange(self.text()));
}

template <Side kSide>
Value strip_text(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("strip()", arguments, {"chars"});
  if (!bound.is_given(0)) return Value(std::string(strip(self.text(), kSide)));
  return Value(std::string(strip(self.text(), kSide, bound.text(0))));
}

Value texts(const std::vector<std::string_view>& parts) {
  std::vector<Value> out;
  for (const std::string_view part : parts) out.emplace_back(std::string(part));
  return Value::list(std::move(out));
}

/// Pays for the parts that a text is cut into at most, before they are made.
template <class IsCut>
void pay_for_parts(Interpreter& in, const std::string& text, const IsCut& is_cut) {
  const auto cuts = std::count_if(text.begin(), text.end(), is_cut);
  in.reserve(40 * static_cast<int64_t>(cuts) + static_cast<int64_t>(text.size()));
}

bool may_be_space(char c) {
  return static_cast<unsigned char>(c) <= 0x20 || (c & 0x80) != 0;
}

template <Side kFrom>
Value split(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("split()", arguments, {"sep", "maxsplit"});
  const int64_t most = bound.integer(1, -1);
  if (!bound.is_given(0)) {
    pay_for_parts(in, self.text(), may_be_space);
    return texts(split_at_space(self.text(), most, kFrom));
  }
  if (bound.text(0).empty()) throw Fault("split() is given an empty separator");
  pay_for_parts(in, self.text(), [&](char c) { return c == bound.text(0).front(); });
  return texts(split_at(self.text(), bound.text(0), most, kFrom));
}

template <Side kFrom>
Value partition(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("partition()", arguments, {"sep"}, 1);
  const std::string &text = self.text(), &separator = bound.text(0);
  if (separator.empty()) throw Fault("partition() is given an empty separator");
  const size_t at = kFrom == Side::kLeft ? text.find(separator) : text.rfind(separator);
  if (at == std::string::npos) {
    return kFrom == Side::kLeft ? Value::tuple({self, "", ""}) : Value::tuple({"", "", self});
  }
  return Value::tuple({text.substr(0, at), separator, text.substr(at + separator.size())});
}

/// The part of a text that a method with start and stop looks at, in bytes.
///   returns   false where start lies behind the text
bool window_of(const Bound& bound, const std::string& text, size_t& begin, size_t& end) {
  const auto size = static_cast<int64_t>(count_characters(text));
  const auto place = [&](size_t i, int64_t fallback) {
    int64_t n = bound.is_given(i) ? bound.integer(i, fallback) : fallback;
    return std::max<int64_t>(n < 0 ? n + size : n, 0);
  };
  const int64_t start = place(1, 0), stop = std::min(place(2, size), size);
  if (start > stop) return false;
  begin = byte_of_character(text, static_cast<size_t>(start));
  end = byte_of_character(text, static_cast<size_t>(stop));
  return true;
}

template <bool kStart>
Value has_affix(Interpreter&, const Value& self, Arguments& arguments) {
  const char* what = kStart ? "startswith()" : "endswith()";
  const Bound bound(what, arguments, {"prefix", "start", "end"}, 1);
  size_t begin = 0, end = 0;
  const bool is_inside = window_of(bound, self.text(), begin, end);
  const auto holds = [&](const Value& affix) {
    if (!affix.is_text()) {
      throw Fault(fmt::format("{} is given a {}, expected a text or a tuple of texts", what,
                              affix.type_name()));
    }
    if (!is_inside) return false;
    const auto part = std::string_view(self.text()).substr(begin, end - begin);
    return kStart ? part.starts_with(affix.text()) : part.ends_with(affix.text());
  };
  if (!bound.at(0).is_tuple()) return holds(bound.at(0));
  const auto& affixes = bound.at(0).as<const Sequence>()->items;
  return std::any_of(affixes.begin(), affixes.end(), holds);
}

/// Where a part stands, in characters; -1: nowhere.
template <Side kFrom, bool kRaises>
Value find(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound(kRaises ? "index()" : "find()", arguments, {"sub", "start", "end"}, 1);
  const std::string& text = self.text();
  size_t begin = 0, end = 0, at = std::string::npos;
  if (window_of(bound, text, begin, end)) {
    const auto part = std::string_view(text).substr(begin, end - begin);
    at = kFrom == Side::kLeft ? part.find(bound.text(0)) : part.rfind(bound.text(0));
  }
  if (at != std::string::npos) return static_cast<int64_t>(character_of_byte(text, begin + at));
  if (kRaises) throw Fault("index() does not find the text");
  return -1;
}

Value count(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("count()", arguments, {"sub", "start", "end"}, 1);
  size_t begin = 0, end = 0;
  if (!window_of(bound, self.text(), begin, end)) return 0;
  const auto part = std::string_view(self.text()).substr(begin, end - begin);
  const std::string& sought = bound.text(0);
  if (sought.empty()) return static_cast<int64_t>(count_characters(part)) + 1;
  int64_t count = 0;
  for (size_t at = 0; (at = part.find(sought, at)) != std::string::npos; at += sought.size()) {
    ++count;
  }
  return count;
}

Value replace(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("replace()", arguments, {"old", "new", "count"}, 2);
  return Value(replace_text(in, self.text(), bound.text(0), bound.text(1), bound.integer(2, -1)));
}

Value join(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("join()", arguments, {"iterable"}, 1);
  in.reserve(bound.at(0).bytes());
  std::string out;
  bool is_first = true;
  for (const Value& item : items_of(bound.at(0))) {
    if (!item.is_text()) {
      throw Fault(fmt::format("join() is given a {}, expected texts", item.type_name()));
    }
    if (!is_first) {
      in.reserve(self.bytes());
      out += self.text();
    }
    is_first = false;
    out += item.text();
  }
  return Value(std::move(out));
}

Value split_text_lines(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("splitlines()", arguments, {"keepends"});
  pay_for_parts(in, self.text(), may_be_space);
  return texts(split_lines(self.text(), bound.truth(0)));
}

template <bool kPrefix>
Value remove_affix(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound(kPrefix ? "removeprefix()" : "removesuffix()", arguments, {"affix"}, 1);
  std::string_view text = self.text();
  const std::string& affix = bound.text(0);
  if (kPrefix && text.starts_with(affix)) text.remove_prefix(affix.size());
  if (!kPrefix && text.ends_with(affix)) text.remove_suffix(affix.size());
  return Value(std::string(text));
}

template <Side kKeeps>
Value justify(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("ljust(), rjust() or center()", arguments, {"width", "fillchar"}, 1);
  const std::string fill = bound.has(1) ? bound.text(1) : " ";
  if (count_characters(fill) != 1) throw Fault("the character to fill with is not one character");
  return Value(padded(in, self.text(), bound.integer(0, 0), fill, kKeeps));
}

Value fill_zeros(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("zfill()", arguments, {"width"}, 1);
  const std::string& text = self.text();
  const bool is_signed = text.starts_with('-') || text.starts_with('+');
  return Value(text.substr(0, is_signed) + padded(in, text.substr(is_signed),
                                                  bound.integer(0, 0) - is_signed, "0",
                                                  Side::kRight));
}

Value is_space(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("isspace()", arguments, {});
  return !self.text().empty() && space_prefix(self.text()) == self.text().size();
}

Value is_digits(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("isdigit()", arguments, {});
  const std::string& text = self.text();
  if (std::any_of(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; })) {
    throw Fault("isdigit() of a text beyond ASCII is not supported");
  }
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

Value format(Interpreter& in, const Value& self, Arguments& arguments) {
  return Value(format_braces(in, self.text(), arguments));
}

constexpr std::pair<std::string_view, Method> kMethods[] = {
    {"capitalize", change<capitalize>},
    {"center", justify<Side::kBoth>},
    {"count", count},
    {"endswith", has_affix<false>},
    {"find", find<Side::kLeft, false>},
    {"format", format},
    {"index", find<Side::kLeft, true>},
    {"isdigit", is_digits},
    {"isspace", is_space},
    {"join", join},
    {"ljust", justify<Side::kLeft>},
    {"lower", change<to_lower>},
    {"lstrip", strip_text<Side::kLeft>},
    {"partition", partition<Side::kLeft>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace},
    {"rfind", find<Side::kRight, false>},
    {"rindex", find<Side::kRight, true>},
    {"rjust", justify<Side::kRight>},
    {"rpartition", partition<Side::kRight>},
    {"rsplit", split<Side::kRight>},
    {"rstrip", strip_text<Side::kRight>},
    {"split", split<Side::kLeft>},
    {"splitlines", split_text_lines},
    {"startswith", has_affix<true>},
    {"strip", strip_text<Side::kBoth>},
    {"title", change<to_title>},
    {"upper", change<to_upper>},
    {"zfill", fill_zeros},
};

}  // namespace

Value text_method(const Value& text, const std::string& name) {
  for (const auto& [known, method] : kMethods) {
    if (known != name) continue;
    return Value::function(name, [text, method = method](Interpreter& in, Arguments& arguments) {
      in.spend(text.bytes());
      if (text.as<const TextData>()->is_safe) {
        throw Fault("methods of a text that went through 'safe' are not supported");
      }
      return method(in, text, arguments);
    });
  }
  if (std::find(kUnknown.begin(), kUnknown.end(), name) != kUnknown.end()) {
    throw Fault(fmt::format("the method {} of texts is not supported", io::quote(name)));
  }
  return Value::undefined("");
}

}  // namespace qlora::data::jinja
