#pragma once

#include <cmath>

#include "tests/emulation/device/registers.h"

namespace qlora::emulation {

/// Exact.
inline float widen(f16 x) {
  const b32 sign = b32{x.bits & 0x8000u} << 16, exponent = (x.bits >> 10) & 31u;
  const b32 fraction = x.bits & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent == 0)
    return std::copysign(std::ldexp(static_cast<float>(fraction), -24), std::bit_cast<float>(sign));
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}
inline float widen(bf16 x) {
  return std::bit_cast<float>(b32{x.bits} << 16);
}
inline float widen(float x) {
  return x;
}
inline double widen(double x) {
  return x;
}

/// x to `digits` significant bits, and to a multiple of 2^least where that is coarser; to nearest
/// even.
inline double round_to(double x, int digits, int least) {
  if (x == 0 || !std::isfinite(x)) return x;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int unit = std::max(exponent - digits, least);
  return std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
}

/// A double to half precision, one rounding. NaN becomes the NaN that hardware gives (0x7FFF).
template <class Half>
Half narrow(double x);
template <>
inline f16 narrow<f16>(double x) {
  if (std::isnan(x)) return {0x7FFF};
  const b16 sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(round_to(x, 11, -24));
  if (magnitude >= 65536) return {static_cast<b16>(sign | 0x7C00)};
  if (magnitude < 0x1p-14)
    return {static_cast<b16>(sign | static_cast<b16>(std::ldexp(magnitude, 24)))};
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);
  return {static_cast<b16>(sign | ((exponent + 14) << 10) |
                           (static_cast<b16>(std::ldexp(fraction, 11)) & 0x3FF))};
}
template <>
inline bf16 narrow<bf16>(double x) {
  if (std::isnan(x)) return {0x7FFF};
  const double rounded = round_to(x, 8, -133);
  return {static_cast<b16>(std::bit_cast<b32>(static_cast<float>(rounded)) >> 16)};
}

/// a * b + c with one rounding: the product is exact, and the sum is rounded to odd in a double
/// first, which leaves the second rounding right (Boldo and Melquiond, 2008).
template <class Half>
Half fused_half(Half a, Half b, Half c) {
  const double product = static_cast<double>(widen(a)) * widen(b), addend = widen(c);
  double sum = product + addend;
  if (!std::isfinite(sum)) return narrow<Half>(sum);
  const double part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);
  if (error != 0 && (std::bit_cast<b64>(sum) & 1) == 0) {
    sum = std::nextafter(sum, error > 0 ? HUGE_VAL : -HUGE_VAL);
  }
  return narrow<Half>(sum);
}

}  // namespace qlora::emulation
