#include "data/jinja/access.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/jinja/arguments.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/text_tools.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

Value missing(const Value& object, const std::string& name) {
  return Value::undefined(
      fmt::format("a {} has no attribute {}", object.type_name(), io::quote(name)));
}

Value loop_attribute(const Value& object, Loop& loop, const std::string& name) {
  const auto index = static_cast<int64_t>(loop.index),
             length = static_cast<int64_t>(loop.items.size());
  if (name == "index") return index + 1;
  if (name == "index0") return index;
  if (name == "revindex") return length - index;
  if (name == "revindex0") return length - index - 1;
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == length;
  if (name == "length") return length;
  if (name == "depth") return 1;
  if (name == "depth0") return 0;
  if (name == "previtem") {
    return index > 0 ? loop.items[loop.index - 1] : Value::undefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < length ? loop.items[loop.index + 1]
                              : Value::undefined("there is no next item");
  }
  const std::shared_ptr<Loop> held = std::get<std::shared_ptr<Loop>>(object.data());
  if (name == "cycle") {
    return Value::function("cycle", [held](Interpreter&, Arguments& arguments) {
      if (arguments.positional.empty()) throw Fault("loop.cycle() is given nothing");
      return arguments.positional[held->index % arguments.positional.size()];
    });
  }
  if (name == "changed") {
    return Value::function("changed", [held](Interpreter& in, Arguments& arguments) {
      in.spend(Value::list(arguments.positional).bytes());
      const bool same = held->has_changed &&
                        std::equal(arguments.positional.begin(), arguments.positional.end(),
                                   held->last_changed.begin(), held->last_changed.end(), equal);
      held->last_changed = arguments.positional;
      held->has_changed = true;
      return Value(!same);
    });
  }
  return missing(object, name);
}

const Value* find_item(const Value& object, const Value& index) {
  if (const auto* dict = object.as<const Dict>()) {
    const bool may_be_key = !index.is_list() && !index.as<const Dict>() && !index.as<const View>();
    return may_be_key ? dict->find(index) : nullptr;
  }
  int64_t n = 0;
  const auto* sequence = object.as<const Sequence>();
  if (const auto* range = object.as<const Range>()) sequence = &range->numbers;
  if (!sequence || !index.to_int(n)) return nullptr;
  const auto size = static_cast<int64_t>(sequence->items.size());
  if (n < 0) n += size;
  return n >= 0 && n < size ? &sequence->items[static_cast<size_t>(n)] : nullptr;
}

// Attributes that Python's numbers, ranges, views and Jinja2's macros have and this program has
// not.
constexpr std::array<std::string_view, 13> kNumberAttributes = {
    "real", "imag",    "numerator",  "denominator", "conjugate", "as_integer_ratio", "is_integer",
    "hex",  "fromhex", "bit_length", "bit_count",   "to_bytes",  "from_bytes"};
constexpr std::array<std::string_view, 5> kRangeAttributes = {"start", "stop", "step", "count",
                                                              "index"};
constexpr std::array<std::string_view, 2> kViewAttributes = {"mapping", "isdisjoint"};
constexpr std::array<std::string_view, 6> kMacroAttributes = {
    "name", "arguments", "caller", "catch_kwargs", "catch_varargs", "explicit_caller"};

template <size_t kCount>
bool is_one_of(const std::string& name, const std::array<std::string_view, kCount>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_unsupported(const Value& object, const std::string& name) {
  return (object.is_number() && is_one_of(name, kNumberAttributes)) ||
         (object.as<const Range>() && is_one_of(name, kRangeAttributes)) ||
         (object.as<const View>() && is_one_of(name, kViewAttributes)) ||
         (object.as<const Function>() && is_one_of(name, kMacroAttributes));
}

/// What the kind itself has by this name; undefined (and `found` false) where it has nothing.
Value own_attribute(const Value& object, const std::string& name, bool& found) {
  found = true;
  if (name.starts_with("__") && name.ends_with("__") && !object.as<Namespace>()) {
    // Jinja2's sandbox gives undefined, which says why when it is used.
    return Value::undefined(fmt::format("access to the attribute {} of a {} is not allowed",
                                        io::quote(name), object.type_name()));
  }
  if (is_unsupported(object, name)) {
    throw Fault(fmt::format("the attribute {} of a {} is not supported", io::quote(name),
                            object.type_name()));
  }
  Value value = Value::undefined("");
  if (object.is_text()) value = text_method(object, name);
  if (object.as<const Dict>() || object.as<const Sequence>()) {
    value = collection_method(object, name);
  }
  if (auto* loop = object.as<Loop>()) value = loop_attribute(object, *loop, name);
  if (auto* space = object.as<Namespace>()) {
    for (const auto& [key, item] : space->attributes) {
      if (key == name) value = item;
    }
  }
  found = !value.is_undefined();
  return value;
}

}  // namespace

Value attribute_of(const Value& object, const std::string& name) {
  if (const auto* gap = std::get_if<Undefined>(&object.data())) throw Fault(*gap->why);
  bool found = false;
  Value own = own_attribute(object, name, found);
  if (found) return own;
  if (const auto* dict = object.as<const Dict>()) {
    if (const Value* item = dict->find_text(name)) return *item;
  }
  return missing(object, name);
}

Value item_of(const Value& object, const Value& index) {
  if (const auto* gap = std::get_if<Undefined>(&object.data())) throw Fault(*gap->why);
  if (const Value* item = find_item(object, index)) return *item;
  int64_t n = 0;
  if (object.is_text() && index.to_int(n)) {
    const std::string& text = object.text();
    const auto size = static_cast<int64_t>(count_characters(text));
    if (n < 0) n += size;
    if (n >= 0 && n < size) {
      const size_t begin = byte_of_character(text, static_cast<size_t>(n));
      return Value(text.substr(begin, byte_of_character(std::string_view(text).substr(begin), 1)));
    }
    return Value::undefined(fmt::format("a text of {} characters has no character {}", size, n));
  }
  if (index.is_text()) {
    bool found = false;
    Value own = own_attribute(object, index.text(), found);
    if (found) return own;
    return missing(object, index.text());
  }
  return Value::undefined(fmt::format("a {} has no such item", object.type_name()));
}

Value slice_of(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (const auto* gap = std::get_if<Undefined>(&object.data())) throw Fault(*gap->why);
  const auto* range = object.as<const Range>();
  if (!object.is_text() && !object.as<const Sequence>() && !range) {
    throw Fault(fmt::format("a {} cannot be sliced", object.type_name()));
  }
  std::vector<std::string_view> characters;
  if (object.is_text()) characters = characters_of(object.text());
  const std::vector<Value>* items = range              ? &range->numbers.items
                                    : object.is_text() ? nullptr
                                                       : &object.as<const Sequence>()->items;
  const auto size = static_cast<int64_t>(items ? items->size() : characters.size());
  const auto number = [](const Value& bound, int64_t absent) {
    int64_t n = absent;
    if (!bound.is_none() && !bound.to_int(n)) throw Fault("a bound of a slice is no whole number");
    return n;
  };
  const int64_t by = number(step, 1);
  if (by == 0) throw Fault("the step of a slice is 0");
  const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? size : size - 1;
  const auto clamp = [&](int64_t n) {
    if (n < 0) n = n < -size ? lowest : n + size;
    return std::clamp(n, lowest, highest);
  };
  const int64_t from = start.is_none() ? (by > 0 ? lowest : highest) : clamp(number(start, 0));
  const int64_t to = stop.is_none() ? (by > 0 ? highest : lowest) : clamp(number(stop, 0));
  std::string text;
  std::vector<Value> out;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    const auto at = static_cast<size_t>(i);
    if (items) {
      out.push_back((*items)[at]);
    } else {
      text += characters[at];
    }
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  if (!items) return Value(std::move(text), object.as<const TextData>()->is_safe);
  if (range) {
    int64_t distance = 0;
    if (__builtin_mul_overflow(by, range->step, &distance)) throw Fault("the step is too large");
    // Unsigned: the place behind the last number may lie beyond 64 bits, and is never read then.
    const auto number_at = [&](int64_t i) {
      return static_cast<int64_t>(static_cast<uint64_t>(range->start) +
                                  static_cast<uint64_t>(i) * static_cast<uint64_t>(range->step));
    };
    Range part{number_at(from), number_at(to), distance, {}};
    part.numbers = *Value::list(std::move(out)).as<const Sequence>();
    return Value(Value::Data(std::make_shared<const Range>(std::move(part))));
  }
  return object.is_tuple() ? Value::tuple(std::move(out)) : Value::list(std::move(out));
}

}  // namespace qlora::data::jinja
