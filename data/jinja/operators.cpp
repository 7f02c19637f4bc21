#include "data/jinja/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/jinja/formatting.h"
#include "data/jinja/interpreter.h"

namespace qlora::data::jinja {
namespace {

const char* sign_of(Op op) {
  static constexpr const char* kSigns[] = {
      "+", "-", "*", "/", "//", "%", "**", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSigns[static_cast<int>(op)];
}

[[noreturn]] void refuse(Op op, const Value& left, const Value& right) {
  for (const Value* side : {&left, &right}) {
    if (const auto* gap = std::get_if<Undefined>(&side->data())) throw Fault(*gap->why);
  }
  throw Fault(fmt::format("'{}' does not go between {} and {}", sign_of(op), left.type_name(),
                          right.type_name()));
}

[[noreturn]] void overflow() {
  throw Fault("a whole number grows beyond 64 bits");
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) throw Fault("division by zero");
  if (b == -1 && a == INT64_MIN) overflow();
  return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}

int64_t power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) overflow();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
  }
  return result;
}

Value of_integers(Op op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Op::kAdd:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return result;
    case Op::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return result;
    case Op::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return result;
    case Op::kDivide:
      if (b == 0) throw Fault("division by zero");
      return static_cast<double>(a) / static_cast<double>(b);
    case Op::kFloorDivide:
      return floor_divide(a, b);
    case Op::kModulo:
      if (b == -1) return 0;
      return a - floor_divide(a, b) * b;
    default:
      if (b < 0 && a == 0) throw Fault("0 cannot be raised to a negative power");
      if (b < 0) return std::pow(static_cast<double>(a), static_cast<double>(b));
      return power(a, b);
  }
}

/// Python's modulo of floats: the sign of the divisor.
double float_modulo(double a, double b) {
  double rest = std::fmod(a, b);
  if (rest != 0 && (rest < 0) != (b < 0)) rest += b;
  return rest == 0 ? std::copysign(0.0, b) : rest;
}

double float_floor_divide(double a, double b) {
  const double rest = float_modulo(a, b);
  const double quotient = (a - rest) / b;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

Value of_floats(Op op, double a, double b) {
  const bool divides = op == Op::kDivide || op == Op::kFloorDivide || op == Op::kModulo;
  if (divides && b == 0) throw Fault("division by zero");
  switch (op) {
    case Op::kAdd:
      return a + b;
    case Op::kSubtract:
      return a - b;
    case Op::kMultiply:
      return a * b;
    case Op::kDivide:
      return a / b;
    case Op::kFloorDivide:
      return float_floor_divide(a, b);
    case Op::kModulo:
      return float_modulo(a, b);
    default: {
      const double result = std::pow(a, b);
      if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) {
        throw Fault("a negative number has no such power among the real ones");
      }
      if ((std::isinf(result) && std::isfinite(a) && std::isfinite(b))) {
        throw Fault("a power is too large");
      }
      return result;
    }
  }
}

Value add_texts(const TextData& left, const TextData& right) {
  if (!left.is_safe && !right.is_safe) return Value(left.text + right.text);
  const auto part = [](const TextData& t) { return t.is_safe ? t.text : escape_markup(t.text); };
  return Value(part(left) + part(right), true);
}

/// 'ab' * 3, [1] * 3.
Value repeat(Interpreter& in, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  const int64_t each = std::max<int64_t>(value.bytes(), 1);
  if (count > kMaxValueBytes / each) {
    throw Fault(fmt::format("a value grows beyond {} bytes", kMaxValueBytes));
  }
  in.reserve(count * each);
  if (value.is_text()) {
    std::string out;
    out.reserve(static_cast<size_t>(count * each));
    for (int64_t i = 0; i < count; ++i) out += value.text();
    return Value(std::move(out), value.as<const TextData>()->is_safe);
  }
  std::vector<Value> items;
  const auto& once = value.as<const Sequence>()->items;
  for (int64_t i = 0; i < count; ++i) items.insert(items.end(), once.begin(), once.end());
  return value.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

}  // namespace

std::string escape_markup(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

Value arithmetic(Interpreter& in, Op op, const Value& left, const Value& right) {
  int64_t m = 0, n = 0;
  double x = 0, y = 0;
  if (left.to_int(m) && right.to_int(n)) return of_integers(op, m, n);
  if (left.to_double(x) && right.to_double(y)) return of_floats(op, x, y);
  const auto *a = left.as<const TextData>(), *b = right.as<const TextData>();
  if (op == Op::kModulo && a) return Value(format_percent(in, left, right));
  if (op == Op::kAdd && a && b) {
    in.reserve(left.bytes() + right.bytes());
    return add_texts(*a, *b);
  }
  const auto *s = left.as<const Sequence>(), *t = right.as<const Sequence>();
  if (op == Op::kAdd && s && t && left.is_tuple() == right.is_tuple()) {
    in.reserve(left.own_bytes() + right.own_bytes());
    std::vector<Value> items = s->items;
    items.insert(items.end(), t->items.begin(), t->items.end());
    return left.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
  }
  if (op == Op::kMultiply) {
    if ((a || s) && right.to_int(n)) return repeat(in, left, n);
    if ((b || t) && left.to_int(n)) return repeat(in, right, n);
  }
  refuse(op, left, right);
}

Value signed_value(const Value& value, bool negative) {
  int64_t n = 0;
  double x = 0;
  if (value.to_int(n)) {
    if (negative && n == INT64_MIN) overflow();
    return negative ? -n : n;
  }
  if (value.to_double(x)) return negative ? -x : x;
  if (const auto* gap = std::get_if<Undefined>(&value.data())) throw Fault(*gap->why);
  throw Fault(fmt::format("a {} has no sign", value.type_name()));
}

bool contains(Interpreter& in, const Value& container, const Value& item) {
  in.spend(container.bytes());
  if (container.is_text()) {
    if (!item.is_text()) refuse(Op::kIn, item, container);
    return container.text().find(item.text()) != std::string::npos;
  }
  if (const auto* dict = container.as<const Dict>()) return dict->find(item) != nullptr;
  if (auto* walk = container.as<Iterator>()) {  // used up as far as it was looked at
    while (walk->at < walk->items.size()) {
      if (equal(walk->items[walk->at++], item)) return true;
    }
    return false;
  }
  const std::vector<Value> items = items_of(container);
  return std::any_of(items.begin(), items.end(), [&](const Value& v) { return equal(v, item); });
}

bool compare(Interpreter& in, Op op, const Value& left, const Value& right) {
  in.spend(std::min(left.bytes(), right.bytes()));
  switch (op) {
    case Op::kEqual:
      return equal(left, right);
    case Op::kNotEqual:
      return !equal(left, right);
    case Op::kIn:
      return contains(in, right, left);
    case Op::kNotIn:
      return !contains(in, right, left);
    case Op::kLess:
      return less(left, right);
    case Op::kGreater:
      return less(right, left);
    case Op::kLessEqual:
      return less(left, right) || equal(left, right);
    default:
      return less(right, left) || equal(left, right);
  }
}

}  // namespace qlora::data::jinja
