#pragma once

#include <algorithm>
#include <cmath>

#include "tests/emulation/device/machine.h"

// Instructions that hardware computes approximately. Here the correct result is moved to either
// side at random, by as much as the documentation allows, so that a bound that holds under
// emulation does not lean on luck. Source: CUDA C++ Programming Guide 13.0, "Mathematical Functions
// Appendix", whose functions exp2f, rsqrtf, __sinf, __log2f and __fdividef are these instructions.
// expf holds its 2 ulps only where ex2 is nearer than exp2f's own 2: it moves by 1 and is rounded.

namespace qlora::emulation {

/// x moved by a random one of -1, 0 and 1 times `error`. Exact where the seed is 0.
inline float moved(double x, double error) {
  const double side = static_cast<double>(machine().random_below(3));
  if (!std::isfinite(x) || x == 0) return static_cast<float>(x);
  return static_cast<float>(side == 0 ? x : side == 1 ? x + error : x - error);
}
/// The same by a number of ulps of x. Rounding adds half a one.
inline float moved_by_ulps(double x, double ulps) {
  if (!std::isfinite(x) || x == 0) return static_cast<float>(x);
  return moved(x, ulps * std::ldexp(1.0, std::max(std::ilogb(x), -126) - 23));
}

/// 2^n is exact for whole n: expm1f and others build on that.
inline float approximate_exp2(const Thread&, float x) {
  const double y = std::exp2(static_cast<double>(x));
  return std::trunc(x) == x ? static_cast<float>(y) : moved_by_ulps(y, 1);
}
/// 2^-22 absolute in [0.5, 2], 2 ulps elsewhere.
inline float approximate_log2(const Thread&, float x) {
  const double y = std::log2(static_cast<double>(x));
  return x >= 0.5f && x <= 2 ? moved(y, 0x1p-22) : moved_by_ulps(y, 1.5);
}
/// 2^-21.41 and 2^-21.19 absolute for |x| up to pi.
inline float approximate_sine(const Thread&, float x) {
  return moved(std::sin(static_cast<double>(x)), 3.58e-7);
}
inline float approximate_cosine(const Thread&, float x) {
  return moved(std::cos(static_cast<double>(x)), 4.17e-7);
}
/// 2^-11 relative (PTX ISA 9.0, tanh).
inline float approximate_tanh(const Thread&, float x) {
  const double y = std::tanh(static_cast<double>(x));
  return moved(y, std::fabs(y) * 0x1p-11);
}
/// 2 ulps.
inline float approximate_inverse_root(const Thread&, float x) {
  return moved_by_ulps(1 / std::sqrt(static_cast<double>(x)), 1.5);
}
/// 1 ulp each.
inline float approximate_square_root(const Thread&, float x) {
  return moved_by_ulps(std::sqrt(static_cast<double>(x)), 0.5);
}
inline float approximate_reciprocal(const Thread&, float x) {
  return moved_by_ulps(1 / static_cast<double>(x), 0.5);
}
/// rcp and rsqrt of doubles, the start of an iteration: they read and give the upper 32 bits alone.
inline double upper_half(double x) {
  return std::bit_cast<double>(std::bit_cast<b64>(x) & 0xFFFFFFFF00000000ull);
}
inline double coarse_reciprocal(const Thread&, double x) {
  return upper_half(1 / upper_half(x));
}
inline double coarse_inverse_root(const Thread&, double x) {
  return upper_half(1 / std::sqrt(upper_half(x)));
}
/// 2 ulps.
inline float approximate_divide(const Thread&, float a, float b) {
  return moved_by_ulps(static_cast<double>(a) / static_cast<double>(b), 1.5);
}

}  // namespace qlora::emulation
