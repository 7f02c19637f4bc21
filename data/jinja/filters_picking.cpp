#include <fmt/format.h>

#include "data/jinja/access.h"
#include "data/jinja/arguments.h"
#include "data/jinja/filters.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/tests.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

Value take_first(Arguments& arguments) {
  Value value = arguments.positional.front();
  arguments.positional.erase(arguments.positional.begin());
  return value;
}

Value* find_named(Arguments& arguments, std::string_view name) {
  for (auto& [key, value] : arguments.named) {
    if (key == name) return &value;
  }
  return nullptr;
}

std::string name_of(const char* what, const Value& value) {
  if (!value.is_text()) {
    throw Fault(fmt::format("{} is given a {}, expected the name of a filter or test", what,
                            value.type_name()));
  }
  return value.text();
}

/// map(attribute="…", default=…), or map("filter", its arguments).
Value map(Interpreter& in, const Value& value, Arguments& arguments) {
  std::vector<Value> out;
  if (!value.truth()) return Value::iterator({});
  const Value* attribute = find_named(arguments, "attribute");
  if (arguments.positional.empty() && attribute) {
    const Bound bound("the filter 'map'", arguments, {"attribute", "default"});
    for (const Value& item : items_of(value)) {
      in.spend(0);
      out.push_back(nested_item(item, bound.at(0), bound.has(1) ? &bound.at(1) : nullptr));
    }
    return Value::iterator(std::move(out));
  }
  if (arguments.positional.empty()) throw Fault("the filter 'map' lacks the name of a filter");
  const std::string name = name_of("the filter 'map'", take_first(arguments));
  for (const Value& item : items_of(value)) {
    Arguments own = arguments;
    out.push_back(in.call_filter(name, item, own));
  }
  return Value::iterator(std::move(out));
}

enum class Keeps { kHolding, kFailing };

/// select("test", …), selectattr("attribute", "test", …) and their opposites.
template <Keeps kKeeps, bool kByAttribute>
Value pick(Interpreter& in, const Value& value, Arguments& arguments) {
  if (!value.truth()) return Value::iterator({});
  Value attribute;
  if (kByAttribute) {
    if (arguments.positional.empty()) {
      throw Fault("a filter that selects by attribute lacks the attribute");
    }
    attribute = take_first(arguments);
  }
  const bool has_test = !arguments.positional.empty();
  const std::string test = has_test ? name_of("a filter that selects", take_first(arguments)) : "";
  std::vector<Value> out;
  for (const Value& item : items_of(value)) {
    in.spend(0);
    const Value seen = kByAttribute ? nested_item(item, attribute) : item;
    Arguments own = arguments;
    const bool holds = has_test ? in.call_test(test, seen, own) : seen.truth();
    if (holds == (kKeeps == Keeps::kHolding)) out.push_back(item);
  }
  return Value::iterator(std::move(out));
}

Value or_default(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'default'", arguments, {"default_value", "boolean"});
  const bool is_missing = value.is_undefined() || (bound.truth(1) && !value.truth());
  return is_missing ? bound.or_else(0, Value("")) : value;
}

/// The attribute alone, never the item; for what a template of dictionaries has.
Value attribute(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'attr'", arguments, {"name"}, 1);
  if (const auto* dict = value.as<const Dict>(); dict && dict->find_text(bound.text(0))) {
    return Value::undefined(fmt::format("a dict has no attribute {}", io::quote(bound.text(0))));
  }
  return attribute_of(value, bound.text(0));
}

}  // namespace

const FilterTable& picking_filters() {
  static const FilterTable table = {
      {"attr", attribute},
      {"d", or_default},
      {"default", or_default},
      {"map", map},
      {"reject", pick<Keeps::kFailing, false>},
      {"rejectattr", pick<Keeps::kFailing, true>},
      {"select", pick<Keeps::kHolding, false>},
      {"selectattr", pick<Keeps::kHolding, true>},
  };
  return table;
}

}  // namespace qlora::data::jinja
