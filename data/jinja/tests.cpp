#include "data/jinja/tests.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "data/jinja/arguments.h"
#include "data/jinja/filters.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/operators.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

/// value % by == rest, of whole numbers and others as Python's % knows them.
bool has_rest(Interpreter& in, const Value& value, const Value& by, int rest) {
  return equal(arithmetic(in, Op::kModulo, value, by), Value(rest));
}

template <int kRest>
bool has_rest_of_two(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound(kRest ? "the test 'odd'" : "the test 'even'", arguments, {});
  return has_rest(in, value, Value(2), kRest);
}

bool is_divisible(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("the test 'divisibleby'", arguments, {"num"}, 1);
  return has_rest(in, value, bound.at(0), 0);
}

bool is_iterable(const Value& value) {
  return value.is_undefined() || value.is_text() || value.as<const Sequence>() ||
         value.as<const Dict>() || value.as<const Range>() || value.as<const View>() ||
         value.as<Iterator>() || value.as<Loop>();
}

/// len() and items by number; undefined counts, as in Jinja2.
bool is_sequence(const Value& value) {
  return value.is_text() || value.as<const Sequence>() || value.as<const Dict>() ||
         value.as<const Range>() || value.is_undefined();
}

bool is_same(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the test 'sameas'", arguments, {"other"}, 1);
  const Value& other = bound.at(0);
  if (value.is_none() || value.is_bool()) {
    return value.data() == other.data();
  }
  if (value.is_text() || value.is_number() || value.is_undefined()) {
    throw Fault("the test 'sameas' is supported for none, true, false and lists alone");
  }
  return value.data() == other.data();
}

template <bool (*kHolds)(const Value&)>
bool of_value(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("a test without arguments", arguments, {});
  return kHolds(value);
}

template <Op kOp>
bool of_two(Interpreter& in, const Value& value, Arguments& arguments) {
  const Bound bound("a test that compares", arguments, {"other"}, 1);
  return compare(in, kOp, value, bound.at(0));
}

template <bool kFilters>
bool is_known(Interpreter&, const Value& value, Arguments& arguments) {
  const Bound bound("the test 'filter' or 'test'", arguments, {});
  if (!value.is_text()) return false;
  return kFilters ? find_filter(value.text()) != nullptr : find_test(value.text()) != nullptr;
}

bool is_defined(const Value& v) {
  return !v.is_undefined();
}
bool is_undefined(const Value& v) {
  return v.is_undefined();
}
bool is_none(const Value& v) {
  return v.is_none();
}
bool is_boolean(const Value& v) {
  return v.is_bool();
}
bool is_true(const Value& v) {
  return v.is_bool() && v.truth();
}
bool is_false(const Value& v) {
  return v.is_bool() && !v.truth();
}
bool is_integer(const Value& v) {
  return v.is_int();
}
bool is_float(const Value& v) {
  return v.is_float();
}
bool is_number(const Value& v) {
  return v.is_number();
}
bool is_string(const Value& v) {
  return v.is_text();
}
bool is_mapping(const Value& v) {
  return v.as<const Dict>() != nullptr;
}
bool is_callable(const Value& v) {
  return v.as<const Function>() != nullptr || v.is_undefined() || v.as<Loop>() != nullptr;
}
bool is_escaped(const Value& v) {
  return v.is_text() && v.as<const TextData>()->is_safe;
}

constexpr std::pair<std::string_view, Test> kTests[] = {
    {"odd", has_rest_of_two<1>},
    {"even", has_rest_of_two<0>},
    {"divisibleby", is_divisible},
    {"defined", of_value<is_defined>},
    {"undefined", of_value<is_undefined>},
    {"filter", is_known<true>},
    {"test", is_known<false>},
    {"none", of_value<is_none>},
    {"boolean", of_value<is_boolean>},
    {"true", of_value<is_true>},
    {"false", of_value<is_false>},
    {"integer", of_value<is_integer>},
    {"float", of_value<is_float>},
    {"number", of_value<is_number>},
    {"string", of_value<is_string>},
    {"mapping", of_value<is_mapping>},
    {"sequence", of_value<is_sequence>},
    {"iterable", of_value<is_iterable>},
    {"callable", of_value<is_callable>},
    {"escaped", of_value<is_escaped>},
    {"sameas", is_same},
    {"in", of_two<Op::kIn>},
    {"==", of_two<Op::kEqual>},
    {"eq", of_two<Op::kEqual>},
    {"equalto", of_two<Op::kEqual>},
    {"!=", of_two<Op::kNotEqual>},
    {"ne", of_two<Op::kNotEqual>},
    {">", of_two<Op::kGreater>},
    {"gt", of_two<Op::kGreater>},
    {"greaterthan", of_two<Op::kGreater>},
    {">=", of_two<Op::kGreaterEqual>},
    {"ge", of_two<Op::kGreaterEqual>},
    {"<", of_two<Op::kLess>},
    {"lt", of_two<Op::kLess>},
    {"lessthan", of_two<Op::kLess>},
    {"<=", of_two<Op::kLessEqual>},
    {"le", of_two<Op::kLessEqual>},
};

}  // namespace

Test find_test(std::string_view name) {
  for (const auto& [known, test] : kTests) {
    if (known == name) return test;
  }
  return nullptr;
}

std::string unknown_test(const std::string& name) {
  std::string names;
  for (const auto& entry : kTests) names += (names.empty() ? "" : " ") + std::string(entry.first);
  return fmt::format("the test {} is not known; known are {}", io::quote(name), names);
}

}  // namespace qlora::data::jinja
