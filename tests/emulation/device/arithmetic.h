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

/// a * b + c, rounded down once. The product is exact in FP64; what adding c loses there decides
/// whether the number nearest to the sum lies above it.
inline float fused_down(float a, float b, float c) {
  const float nearest = std::fma(a, b, c);
  if (!std::isfinite(nearest)) return nearest;
  const double product = static_cast<double>(a) * b, sum = product + c, back = sum - product;
  const double lost = (product - (sum - back)) + (c - back);  // sum + lost is exact
  if (sum == 0 && lost == 0 && c != 0) return -0.0f;          // what cancels is -0, rounded down
  const double above = nearest - sum;
  return above > lost ? std::nextafter(nearest, -INFINITY) : nearest;
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

/// How cvt rounds to an integer; kNone where there is nothing to round, or .rn to a float.
enum class Rounding { kNone, kNearest, kZero, kDown, kUp };

template <Rounding R, class T>
T to_integer(T x) {
  if constexpr (R == Rounding::kNearest)
    return std::nearbyint(x);
  else if constexpr (R == Rounding::kZero)
    return std::trunc(x);
  else if constexpr (R == Rounding::kDown)
    return std::floor(x);
  else if constexpr (R == Rounding::kUp)
    return std::ceil(x);
  else
    return x;
}

/// cvt: integers wrap (or stop at their ends with .sat), floats stop at an integer type's ends and
/// give 0 for NaN, wide floats round to narrow ones.
template <class D, Rounding R, bool IsSaturating, class S>
D convert(S x) {
  if constexpr (std::is_integral_v<D> && std::is_integral_v<S>) {
    if constexpr (IsSaturating) {
      const __int128 low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
      return static_cast<D>(std::clamp(static_cast<__int128>(x), low, high));
    }
    return static_cast<D>(x);
  } else if constexpr (std::is_integral_v<D>) {
    const double v = to_integer<R>(static_cast<double>(widen(x)));
    if (std::isnan(v)) return 0;
    constexpr double low = static_cast<double>(std::numeric_limits<D>::min());
    constexpr double high = static_cast<double>(std::numeric_limits<D>::max());
    if (v <= low) return std::numeric_limits<D>::min();
    return v >= high ? std::numeric_limits<D>::max() : static_cast<D>(v);
  } else if constexpr (std::is_integral_v<S>) {
    if constexpr (is_half<D>)
      return narrow<D>(static_cast<double>(x));
    else
      return static_cast<D>(x);
  } else {
    const auto whole = to_integer<R>(widen(x));
    if constexpr (is_half<D>) {
      const D half = narrow<D>(whole);
      return IsSaturating ? saturate(half) : half;
    } else {
      const D result = static_cast<D>(whole);
      return IsSaturating ? saturate(result) : result;
    }
  }
}

/// Two floats as a pair of halves.
template <class Half>
Pair<Half> pack_halves(float low, float high) {
  return {narrow<Half>(low), narrow<Half>(high)};
}

}  // namespace qlora::emulation
