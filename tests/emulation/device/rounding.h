#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/emulation/device/arithmetic.h"

// Conversions, and sums and products that round another way than to nearest even. Semantics: PTX
// ISA 9.0, sections 9.7.9.21 (cvt) and 9.7.3.

namespace qlora::emulation {

/// How cvt rounds to an integer; kNone where there is nothing to round, or .rn to a float.
enum class Rounding { kNone, kNearest, kZero, kDown, kUp };

/// The exact sum a + b, rounded to a float towards zero, down or up. a + b and its error hold it
/// exactly (Knuth's TwoSum); products of floats are exact in a double.
template <Rounding R>
float sum_directed(double a, double b) {
  const double sum = a + b;
  auto nearest = static_cast<float>(sum);
  if (!std::isfinite(sum)) return nearest;
  const double part = sum - a, error = (a - (sum - part)) + (b - part);
  const double above = (static_cast<double>(nearest) - sum) - error;  // of the exact sum
  const bool rounds_down = R == Rounding::kDown || (R == Rounding::kZero && sum > 0);
  const bool rounds_up = R == Rounding::kUp || (R == Rounding::kZero && sum < 0);
  if (rounds_down && above > 0) nearest = std::nextafter(nearest, -HUGE_VALF);
  if (rounds_up && above < 0) nearest = std::nextafter(nearest, HUGE_VALF);
  if (sum == 0 && error == 0)
    return R == Rounding::kDown && (std::signbit(a) || std::signbit(b)) ? -0.0f : nearest;
  return nearest;
}
template <Rounding R>
float add_directed(float a, float b) {
  return sum_directed<R>(a, b);
}
template <Rounding R>
float subtract_directed(float a, float b) {
  return sum_directed<R>(a, -static_cast<double>(b));
}
template <Rounding R>
float fused_directed(float a, float b, float c) {
  return sum_directed<R>(static_cast<double>(a) * b, c);
}
template <Rounding R>
float multiply_directed(float a, float b) {
  const double product = static_cast<double>(a) * b;
  return product == 0 ? static_cast<float>(product) : sum_directed<R>(product, 0);
}

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
