#pragma once

#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

namespace qlora {

/// What a field's value has to satisfy beside its type. Built by the functions below.
///   Maps and lists   every value, or every item, has to satisfy it
///   Unset optionals  satisfy every constraint
///   Numbers          are finite, whatever the constraint
struct Constraint {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_is_open = false;            // low itself is not allowed
  std::vector<std::string> choices{};  // the only texts allowed, if there are any
  bool filled = false;                 // no empty text, list or map
};

inline Constraint any_value() {
  return {};
}
/// low <= value <= high
inline Constraint in_range(double low, double high) {
  return {.low = low, .high = high};
}
/// value > 0
inline Constraint positive() {
  return {.low = 0, .low_is_open = true};
}
/// value >= 0
inline Constraint non_negative() {
  return {.low = 0};
}
inline Constraint one_of(std::initializer_list<const char*> choices) {
  return {.choices = {choices.begin(), choices.end()}};
}
inline Constraint non_empty() {
  return {.filled = true};
}

/// The names of an enumeration in configurations; specialise it next to the enumeration:
///   template <> struct qlora::EnumNames<Init> {
///     static constexpr std::pair<Init, const char*> kNames[] = {{Init::kGaussian, "gaussian"}};
///   };
/// A value may have several names: the first one is written, all are read.
template <class E>
struct EnumNames;

}  // namespace qlora
