#include <fmt/format.h>

#include <algorithm>

#include "data/jinja/arguments.h"
#include "data/jinja/filters.h"
#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/operators.h"
#include "data/jinja/text_tools.h"
#include "data/letter_case.h"

namespace qlora::data::jinja {
namespace {

template <std::string (*kChange)(std::string_view)>
Value change(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("a filter without arguments", arguments, {});
  return Value(kChange(to_text(value)));
}

/// Jinja2's own title: words begin behind white space, - ( { [ and <.
std::string title_words(std::string_view text) {
  std::string out, word;
  bool is_start = true;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t first = byte_of_character(word, 1);
    out += is_start ? to_upper(word.substr(0, first)) + to_lower(word.substr(first)) : word;
    word.clear();
  };
  for (const std::string_view character : characters_of(text)) {
    const bool is_border = space_prefix(character) > 0 ||
                           std::string_view("-({[<").find(character) != std::string_view::npos;
    if (is_border) {
      flush();
      out += character;
    } else {
      word += character;
    }
  }
  flush();
  return out;
}

Value trim(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'trim'", arguments, {"chars"});
  const std::string text = to_text(value);
  if (!bound.is_given(0)) return Value(std::string(strip(text, Side::kBoth)));
  return Value(std::string(strip(text, Side::kBoth, bound.text(0))));
}

Value replace(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'replace'", arguments, {"old", "new", "count"}, 2);
  const int64_t most = bound.is_given(2) ? bound.integer(2, -1) : -1;
  return Value(replace_text(in, to_text(value), to_text(bound.at(0)), to_text(bound.at(1)), most));
}

Value indent(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'indent'", arguments, {"width", "first", "blank"});
  if (!value.is_text()) {
    throw Fault(
        fmt::format("the filter 'indent' is given a {}, expected a text", value.type_name()));
  }
  const bool is_text = bound.has(0) && bound.at(0).is_text();
  const std::string space =
      is_text ? bound.text(0) : padded(in, "", bound.integer(0, 4), " ", Side::kLeft);
  const std::string text = value.text() + "\n";
  const std::vector<std::string_view> lines = split_lines(text, false);
  std::string out;
  if (bound.truth(1)) out += space;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (bound.truth(2) || !lines[i].empty())) {
      in.reserve(static_cast<int64_t>(space.size()));
      out += space;
    }
    out += lines[i];
  }
  return Value(std::move(out));
}

Value center(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'center'", arguments, {"width"});
  return Value(padded(in, to_text(value), bound.integer(0, 80), " ", Side::kBoth));
}

Value truncate(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'truncate'", arguments, {"length", "killwords", "end", "leeway"});
  if (!value.is_text()) {
    throw Fault(
        fmt::format("the filter 'truncate' is given a {}, expected a text", value.type_name()));
  }
  const int64_t length = bound.integer(0, 255);
  const int64_t leeway = bound.is_given(3) ? bound.integer(3, 5) : 5;
  const std::string end = bound.has(2) ? bound.text(2) : "...";
  const auto end_length = static_cast<int64_t>(count_characters(end));
  if (length < end_length || leeway < 0) {
    throw Fault("the filter 'truncate' has a length below that of its end, or a negative leeway");
  }
  const std::string& text = value.text();
  const auto characters = static_cast<int64_t>(count_characters(text));
  if (leeway > characters || characters <= length + leeway) return value;
  std::string kept =
      text.substr(0, byte_of_character(text, static_cast<size_t>(length - end_length)));
  if (!bound.truth(1)) {
    const size_t space = kept.rfind(' ');
    if (space != std::string::npos) kept.resize(space);
  }
  return Value(kept + end);
}

Value format(Interpreter& in, const Value& value, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty()) {
    throw Fault("the filter 'format' takes either values or names, not both");
  }
  Dict named;
  for (const auto& [name, item] : arguments.named) named.set(Value(name), item);
  const Value given =
      arguments.named.empty() ? Value::tuple(arguments.positional) : Value::dict(std::move(named));
  return Value(format_percent(in, Value(to_text(value)), given));
}

Value as_text(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'string'", arguments, {});
  return value.is_text() ? value : Value(to_text(value));
}

Value safe(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'safe'", arguments, {});
  return Value(to_text(value), true);
}

Value escape(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'escape'", arguments, {});
  if (value.is_text() && value.as<const TextData>()->is_safe) return value;
  in.reserve(5 * value.bytes());
  return Value(escape_markup(to_text(value)), true);
}

Value tojson(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'tojson'", arguments,
                    {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style{.ensure_ascii = bound.truth(0), .sort_keys = bound.truth(3)};
  if (bound.is_given(1)) {
    style.is_indented = true;
    style.item_separator = ",";
    const bool is_text = bound.at(1).is_text();
    style.indent = is_text ? bound.text(1) : padded(in, "", bound.integer(1, 0), " ", Side::kLeft);
  }
  if (bound.is_given(2)) {
    const std::vector<Value> pair = items_of(bound.at(2));
    if (pair.size() != 2 || !pair[0].is_text() || !pair[1].is_text()) {
      throw Fault("the separators of 'tojson' are not two texts");
    }
    style.item_separator = pair[0].text();
    style.key_separator = pair[1].text();
    in.reserve(value.bytes() / 8 *
               static_cast<int64_t>(pair[0].text().size() + pair[1].text().size()));
  }
  return Value(to_json(in, value, style));
}

}  // namespace

const FilterTable& text_filters() {
  static const FilterTable table = {
      {"capitalize", change<capitalize>},
      {"center", center},
      {"e", escape},
      {"escape", escape},
      {"format", format},
      {"indent", indent},
      {"lower", change<to_lower>},
      {"replace", replace},
      {"safe", safe},
      {"string", as_text},
      {"title", change<title_words>},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"upper", change<to_upper>},
  };
  return table;
}

}  // namespace qlora::data::jinja
