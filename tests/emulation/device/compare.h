#pragma once

#include <cmath>

#include "tests/emulation/device/half.h"

// What setp does. Semantics: PTX ISA 9.0, section 9.7.6.

namespace qlora::emulation {

template <class T>
auto comparable(T a) {
  if constexpr (is_half<T>)
    return widen(a);
  else
    return a;
}
template <class T>
bool compare_num(T a, T b) {
  if constexpr (std::is_integral_v<T>)
    return true;
  else
    return !std::isnan(comparable(a)) && !std::isnan(comparable(b));
}
template <class T>
bool compare_nan(T a, T b) {
  return !compare_num(a, b);
}
template <class T>
bool compare_eq(T a, T b) {
  return comparable(a) == comparable(b);
}
template <class T>
bool compare_ne(T a, T b) {
  return compare_num(a, b) && comparable(a) != comparable(b);
}
template <class T>
bool compare_lt(T a, T b) {
  return comparable(a) < comparable(b);
}
template <class T>
bool compare_le(T a, T b) {
  return comparable(a) <= comparable(b);
}
template <class T>
bool compare_gt(T a, T b) {
  return compare_lt(b, a);
}
template <class T>
bool compare_ge(T a, T b) {
  return compare_le(b, a);
}
// The unordered kind is true for NaN, too.
template <class T>
bool compare_equ(T a, T b) {
  return compare_eq(a, b) || compare_nan(a, b);
}
template <class T>
bool compare_neu(T a, T b) {
  return !compare_eq(a, b);
}
template <class T>
bool compare_ltu(T a, T b) {
  return !compare_ge(a, b);
}
template <class T>
bool compare_leu(T a, T b) {
  return !compare_gt(a, b);
}
template <class T>
bool compare_gtu(T a, T b) {
  return !compare_le(a, b);
}
template <class T>
bool compare_geu(T a, T b) {
  return !compare_lt(a, b);
}

}  // namespace qlora::emulation
