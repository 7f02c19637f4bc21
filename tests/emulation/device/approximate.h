#pragma once

#include <cmath>

#include "tests/emulation/device/machine.h"

// Instructions that hardware computes approximately. Here the correct result is moved by up to the
// error that the PTX ISA 9.0 (section 9.7.3) allows, to either side at random, so that a bound that
// holds under emulation holds for any hardware within its own documentation.

namespace qlora::emulation {

/// x moved by a random one of -1, 0 and 1 times `error` (absolute). Exact where the seed is 0.
inline float moved(double x, double error) {
  const double side = static_cast<double>(machine().random_below(3));
  if (!std::isfinite(x) || x == 0) return static_cast<float>(x);
  return static_cast<float>(side == 0 ? x : side == 1 ? x + error : x - error);
}
/// The same relative to x.
inline float moved_by_part(double x, double part) {
  return moved(x, std::fabs(x) * part);
}

/// ex2.approx.f32: 2^-22.5 relative (2 ulp and a bit).
inline float approximate_exp2(const Thread&, float x) {
  return moved_by_part(std::exp2(static_cast<double>(x)), 0x1p-22);
}
/// lg2.approx.f32: absolute 2^-22 for x in [0.5, 2], relative 2^-22 outside.
inline float approximate_log2(const Thread&, float x) {
  const double y = std::log2(static_cast<double>(x));
  return x >= 0.5f && x <= 2 ? moved(y, 0x1p-22) : moved_by_part(y, 0x1p-22);
}
/// sin.approx.f32 and cos.approx.f32: absolute 2^-20.5 for |x| up to 2 pi.
inline float approximate_sine(const Thread&, float x) {
  return moved(std::sin(static_cast<double>(x)), 0x1p-20);
}
inline float approximate_cosine(const Thread&, float x) {
  return moved(std::cos(static_cast<double>(x)), 0x1p-20);
}
/// tanh.approx.f32: relative 2^-11.
inline float approximate_tanh(const Thread&, float x) {
  return moved_by_part(std::tanh(static_cast<double>(x)), 0x1p-11);
}
/// rsqrt.approx.f32: relative 2^-22.9.
inline float approximate_inverse_root(const Thread&, float x) {
  return moved_by_part(1 / std::sqrt(static_cast<double>(x)), 0x1p-22);
}
/// sqrt.approx.f32: relative 2^-23.
inline float approximate_square_root(const Thread&, float x) {
  return moved_by_part(std::sqrt(static_cast<double>(x)), 0x1p-22);
}
/// rcp.approx.f32: 1 ulp.
inline float approximate_reciprocal(const Thread&, float x) {
  return moved_by_part(1 / static_cast<double>(x), 0x1p-23);
}
/// div.approx.f32 and div.full.f32: 2 ulp.
inline float approximate_divide(const Thread&, float a, float b) {
  return moved_by_part(static_cast<double>(a) / static_cast<double>(b), 0x1p-22);
}

}  // namespace qlora::emulation
