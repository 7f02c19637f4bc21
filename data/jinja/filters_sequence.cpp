#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "data/jinja/arguments.h"
#include "data/jinja/filters.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/operators.h"
#include "data/jinja/text_tools.h"

namespace qlora::data::jinja {
namespace {

Value length(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'length'", arguments, {});
  return length_of(value);
}

Value first(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'first'", arguments, {});
  if (auto* walk = value.as<Iterator>()) {  // takes one, and leaves the rest
    if (walk->at < walk->items.size()) return walk->items[walk->at++];
    return Value::undefined("there is no first item, the sequence is empty");
  }
  const std::vector<Value> items = items_of(value);
  if (items.empty()) return Value::undefined("there is no first item, the sequence is empty");
  return items.front();
}

Value last(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'last'", arguments, {});
  if (value.as<Iterator>()) throw Fault("the filter 'last' is given what has no order backwards");
  const std::vector<Value> items = items_of(value);
  if (items.empty()) return Value::undefined("there is no last item, the sequence is empty");
  return items.back();
}

Value to_list(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'list'", arguments, {});
  return Value::list(items_of(value));
}

Value items(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'items'", arguments, {});
  if (value.is_undefined()) return Value::iterator({});
  const auto* dict = value.as<const Dict>();
  if (!dict) throw Fault(fmt::format("the filter 'items' is given a {}", value.type_name()));
  std::vector<Value> pairs;
  for (const auto& [key, item] : dict->entries()) pairs.push_back(Value::tuple({key, item}));
  return Value::iterator(std::move(pairs));
}

Value join(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'join'", arguments, {"d", "attribute"});
  const std::string separator = bound.has(0) ? to_text(bound.at(0)) : "";
  std::string out;
  bool is_first = true;
  for (const Value& item : items_of(value)) {
    const Value part = bound.is_given(1) ? nested_item(item, bound.at(1)) : item;
    in.reserve(part.bytes() + static_cast<int64_t>(separator.size()));
    if (!is_first) out += separator;
    is_first = false;
    out += to_text(part);
  }
  return Value(std::move(out));
}

Value reverse(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'reverse'", arguments, {});
  if (value.is_text()) {
    std::string out;
    const auto characters = characters_of(value.text());
    for (auto at = characters.rbegin(); at != characters.rend(); ++at) out += *at;
    return Value(std::move(out));
  }
  const bool was_iterator = value.as<Iterator>() != nullptr;
  std::vector<Value> reversed = items_of(value);
  std::reverse(reversed.begin(), reversed.end());
  return was_iterator ? Value::list(std::move(reversed)) : Value::iterator(std::move(reversed));
}

/// What n log n comparisons of a value's items cost, paid before they are made.
void pay_for_sorting(Interpreter& in, const Value& value, size_t count) {
  in.spend((value.bytes() + static_cast<int64_t>(count) * 256) * (1 + std::bit_width(count)));
}

/// The items in the order of their keys; equal ones in the order of the list, as in Python.
std::vector<Value> sorted(Interpreter& in, const Value& value, std::vector<Value> items,
                          const std::vector<Value>& keys, bool is_reverse) {
  pay_for_sorting(in, value, items.size());
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return is_reverse ? less(keys[b], keys[a]) : less(keys[a], keys[b]);
  });
  std::vector<Value> out;
  out.reserve(items.size());
  for (const size_t i : order) out.push_back(std::move(items[i]));
  return out;
}

Value sort(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'sort'", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Value> all = items_of(value);
  std::vector<Value> keys;
  std::vector<Value> paths = {bound.or_else(2, Value())};
  if (paths[0].is_text()) {
    const std::string names = paths[0].text();
    paths.clear();
    for (const auto name : split_at(names, ",", -1, Side::kLeft)) {
      paths.emplace_back(std::string(name));
    }
  }
  for (const Value& item : all) {
    std::vector<Value> key;
    for (const Value& path : paths) {
      const Value part = nested_item(item, path);
      key.push_back(bound.truth(1) ? part : without_case(in, part));
    }
    keys.push_back(Value::list(std::move(key)));
  }
  return Value::list(sorted(in, value, std::move(all), keys, bound.truth(0)));
}

Value dictsort(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'dictsort'", arguments, {"case_sensitive", "by", "reverse"});
  const auto* dict = value.as<const Dict>();
  if (!dict) throw Fault(fmt::format("the filter 'dictsort' is given a {}", value.type_name()));
  const std::string by = bound.has(1) ? bound.text(1) : "key";
  if (by != "key" && by != "value") throw Fault("the filter 'dictsort' sorts by key or value");
  std::vector<Value> pairs, keys;
  for (const auto& [key, item] : dict->entries()) {
    pairs.push_back(Value::tuple({key, item}));
    const Value& chosen = by == "key" ? key : item;
    keys.push_back(bound.truth(0) ? chosen : without_case(in, chosen));
  }
  return Value::list(sorted(in, value, std::move(pairs), keys, bound.truth(2)));
}

Value unique(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'unique'", arguments, {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : items_of(value)) {
    const Value part = nested_item(item, bound.or_else(1, Value()));
    const Value key = bound.truth(0) ? part : without_case(in, part);
    hash(key);
    if (seen.find(key)) continue;
    seen.set(key, Value());
    out.push_back(item);
  }
  return Value::iterator(std::move(out));
}

template <bool kLargest>
Value extreme(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound(kLargest ? "the filter 'max'" : "the filter 'min'", arguments,
                    {"case_sensitive", "attribute"});
  const std::vector<Value> all = items_of(value);
  if (all.empty()) return Value::undefined("there is no such item, the sequence is empty");
  const auto key_of = [&](const Value& item) {
    const Value part = nested_item(item, bound.or_else(1, Value()));
    return bound.truth(0) ? part : without_case(in, part);
  };
  size_t best = 0;
  Value best_key = key_of(all[0]);
  for (size_t i = 1; i < all.size(); ++i) {
    Value key = key_of(all[i]);
    in.spend(0);
    if (kLargest ? less(best_key, key) : less(key, best_key)) {
      best = i;
      best_key = std::move(key);
    }
  }
  return all[best];
}

Value sum(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'sum'", arguments, {"attribute", "start"});
  Value total = bound.or_else(1, Value(0));
  if (total.is_text()) throw Fault("the filter 'sum' adds no texts; use join");
  for (const Value& item : items_of(value)) {
    total = arithmetic(in, Op::kAdd, total, nested_item(item, bound.or_else(0, Value())));
  }
  return total;
}

Value batch(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'batch'", arguments, {"linecount", "fill_with"}, 1);
  const int64_t count = bound.integer(0, 1);
  std::vector<Value> out, row;
  for (Value& item : items_of(value)) {
    if (static_cast<int64_t>(row.size()) == count) {
      out.push_back(Value::list(std::move(row)));
      row.clear();
    }
    row.push_back(std::move(item));
  }
  if (row.empty()) return Value::iterator(std::move(out));
  if (bound.is_given(1)) {
    const int64_t missing = count - static_cast<int64_t>(row.size());
    in.reserve(missing > INT32_MAX ? INT64_MAX / 2 : std::max<int64_t>(40 * missing, 0));
    for (int64_t i = 0; i < missing; ++i) row.push_back(bound.at(1));
  }
  out.push_back(Value::list(std::move(row)));
  return Value::iterator(std::move(out));
}

Value slice(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the filter 'slice'", arguments, {"slices", "fill_with"}, 1);
  const int64_t count = bound.integer(0, 1);
  if (count == 0) throw Fault("division by zero");
  in.reserve(count > INT32_MAX ? INT64_MAX / 2 : std::max<int64_t>(40 * count, 0));
  const std::vector<Value> all = items_of(value);
  const auto size = static_cast<int64_t>(all.size());
  std::vector<Value> out;
  int64_t begin = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool has_extra = i < size % count;
    const int64_t end = begin + size / count + has_extra;
    std::vector<Value> part(all.begin() + begin, all.begin() + end);
    if (bound.is_given(1) && !has_extra) part.push_back(bound.at(1));
    out.push_back(Value::list(std::move(part)));
    begin = end;
  }
  return Value::iterator(std::move(out));
}

}  // namespace

const FilterTable& sequence_filters() {
  static const FilterTable table = {
      {"batch", batch},       {"count", length},       {"dictsort", dictsort},
      {"first", first},       {"items", items},        {"join", join},
      {"last", last},         {"length", length},      {"list", to_list},
      {"max", extreme<true>}, {"min", extreme<false>}, {"reverse", reverse},
      {"slice", slice},       {"sort", sort},          {"sum", sum},
      {"unique", unique},
  };
  return table;
}

}  // namespace qlora::data::jinja
