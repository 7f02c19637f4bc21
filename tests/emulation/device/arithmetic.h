#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/emulation/device/half.h"

// What arithmetic instructions do with numbers. Semantics: PTX ISA 9.0, sections 9.7.1 to 9.7.5.
// This project compiles with contraction off, so that a multiply and an add stay two roundings.

namespace qlora::emulation {

template <class T>
inline constexpr bool is_half = std::is_same_v<T, f16> || std::is_same_v<T, bf16>;

/// f on two numbers: of halves in double and rounded once, of pairs part by part.
template <class T, class F>
T with_numbers(T a, T b, F f) {
  if constexpr (is_half<T>) {
    return narrow<T>(f(static_cast<double>(widen(a)), static_cast<double>(widen(b))));
  } else if constexpr (std::is_class_v<T>) {
    return {with_numbers(a.low, b.low, f), with_numbers(a.high, b.high, f)};
  } else {
    return static_cast<T>(f(a, b));
  }
}

template <class T>
T add(T a, T b) {
  return with_numbers(a, b, [](auto x, auto y) { return x + y; });
}
template <class T>
T subtract(T a, T b) {
  return with_numbers(a, b, [](auto x, auto y) { return x - y; });
}
template <class T>
T multiply(T a, T b) {
  return with_numbers(a, b, [](auto x, auto y) { return x * y; });
}

/// The low, the high and all bits of a product of integers.
template <class T>
T multiply_lo(T a, T b) {
  return static_cast<T>(static_cast<wide_t<T>>(a) * static_cast<wide_t<T>>(b));
}
template <class T>
T multiply_hi(T a, T b) {
  return static_cast<T>(static_cast<wide_t<T>>(a) * static_cast<wide_t<T>>(b) >> (8 * sizeof(T)));
}
template <class T>
wide_t<T> multiply_wide(T a, T b) {
  return static_cast<wide_t<T>>(a) * static_cast<wide_t<T>>(b);
}

/// a + b and a - b with the carry (the borrow) of the part before, which they leave for the next.
template <bool Reads, bool Writes, class T>
T add_with_carry(bool& carry, T a, T b) {
  const auto wide = static_cast<unsigned __int128>(static_cast<std::make_unsigned_t<T>>(a)) +
                    static_cast<std::make_unsigned_t<T>>(b) + (Reads && carry ? 1 : 0);
  if (Writes) carry = (wide >> (8 * sizeof(T))) != 0;
  return static_cast<T>(wide);
}
template <bool Reads, bool Writes, class T>
T subtract_with_carry(bool& carry, T a, T b) {
  const auto wide = static_cast<__int128>(static_cast<std::make_unsigned_t<T>>(a)) -
                    static_cast<std::make_unsigned_t<T>>(b) - (Reads && carry ? 1 : 0);
  if (Writes) carry = wide < 0;
  return static_cast<T>(wide);
}

/// a * b + c, rounded once.
template <class T>
T fused(T a, T b, T c) {
  if constexpr (is_half<T>) {
    return fused_half(a, b, c);
  } else if constexpr (std::is_class_v<T>) {
    return {fused_half(a.low, b.low, c.low), fused_half(a.high, b.high, c.high)};
  } else {
    return std::fma(a, b, c);
  }
}

/// Division of integers by 0 gives all ones; its remainder is the dividend.
template <class T>
T divide(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b == 0) return static_cast<T>(-1);
    if constexpr (std::is_signed_v<T>) {
      if (b == -1) return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
    }
  }
  return static_cast<T>(a / b);
}
template <class T>
T remainder(T a, T b) {
  if (b == 0) return a;
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return static_cast<T>(a % b);
}

/// The smaller and the greater; of a number and NaN, the number.
template <class T>
T minimum(T a, T b) {
  return with_numbers(a, b, [](auto x, auto y) {
    if constexpr (std::is_integral_v<decltype(x)>)
      return std::min(x, y);
    else
      return std::fmin(x, y);
  });
}
template <class T>
T maximum(T a, T b) {
  return with_numbers(a, b, [](auto x, auto y) {
    if constexpr (std::is_integral_v<decltype(x)>)
      return std::max(x, y);
    else
      return std::fmax(x, y);
  });
}

template <class T>
T absolute(T a) {
  if constexpr (is_half<T>)
    return {static_cast<b16>(a.bits & 0x7FFF)};
  else if constexpr (std::is_class_v<T>)
    return {absolute(a.low), absolute(a.high)};
  else if constexpr (std::is_integral_v<T>)
    return a < 0 ? static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a)) : a;
  else
    return std::fabs(a);
}
template <class T>
T negate(T a) {
  if constexpr (is_half<T>)
    return {static_cast<b16>(a.bits ^ 0x8000)};
  else if constexpr (std::is_class_v<T>)
    return {negate(a.low), negate(a.high)};
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(0 - static_cast<std::make_unsigned_t<T>>(a));
  else
    return -a;
}
/// copysign.f32 d, a, b: the sign of a, the magnitude of b.
template <class T>
T sign_of(T a, T b) {
  return std::copysign(b, a);
}
template <class T>
T square_root(T a) {
  return std::sqrt(a);
}
template <class T>
T reciprocal(T a) {
  return T{1} / a;
}
/// Into [0, 1]; NaN becomes 0.
template <class T>
T saturate(T a) {
  if constexpr (is_half<T>)
    return narrow<T>(saturate(static_cast<double>(widen(a))));
  else if constexpr (std::is_class_v<T>)
    return {saturate(a.low), saturate(a.high)};
  else
    return a > T{0} ? (a < T{1} ? a : T{1}) : T{0};
}
/// .ftz: a subnormal number counts as 0 of its sign.
inline float flush(float a) {
  return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(0.0f, a) : a;
}

}  // namespace qlora::emulation
