#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "io/dtype.h"

namespace qlora::io {

/// Conversions between float and its 16-bit forms, in integers without branches, so that a loop
/// over them vectorises and the processor's rounding and denormal modes do not matter. Widening is
/// exact. Narrowing rounds to nearest, ties to even, and overflows to infinity. A NaN stays a NaN
/// with its sign; narrowed, it becomes the quiet NaN without payload.
inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

inline uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const uint32_t nan = (bits >> 16 & 0x8000) | 0x7fc0;
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

inline float f16_to_f32(uint16_t bits) {
  const uint32_t magnitude = bits & 0x7fffu;
  // A subnormal is m * 2^-24; 2^-14 + that has m in its low fraction bits, so the difference is
  // exact.
  const uint32_t shifted = (magnitude << 13) + (112u << 23);
  const float subnormal =
      std::bit_cast<float>(shifted + (1u << 23)) - std::bit_cast<float>(113u << 23);
  const uint32_t finite = magnitude < 0x400 ? std::bit_cast<uint32_t>(subnormal) : shifted;
  const uint32_t result = magnitude >= 0x7c00 ? shifted + (112u << 23) : finite;
  return std::bit_cast<float>(result | (bits & 0x8000u) << 16);
}

inline uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Below 2^-14 the fraction with its hidden bit is shifted to units of 2^-24.
  const uint32_t shift = std::clamp(126u - (magnitude >> 23), 14u, 31u);
  const uint32_t fraction = (magnitude & 0x7fffff) | 0x800000;
  const uint32_t subnormal =
      (fraction + (1u << (shift - 1)) - 1 + (fraction >> shift & 1)) >> shift;
  const uint32_t finite = magnitude < 0x38800000 ? subnormal : normal;
  const uint32_t large = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;  // from 65520 on: infinity
  const uint32_t result = magnitude >= 0x477ff000 ? large : finite;
  return static_cast<uint16_t>(result | (bits >> 16 & 0x8000));
}

/// FP8 of the OCP specification: E4M3 without infinity (0x7f and 0xff are NaN), E5M2 as a short
/// half.
inline float f8e5m2_to_f32(uint8_t bits) {
  return f16_to_f32(static_cast<uint16_t>(bits << 8));
}

inline float f8e4m3_to_f32(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  const float subnormal = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-9f;
  const uint32_t normal = (magnitude << 20) + (120u << 23);
  const uint32_t finite = magnitude < 8 ? std::bit_cast<uint32_t>(subnormal) : normal;
  const uint32_t result = magnitude == 0x7f ? 0x7fc00000 : finite;
  return std::bit_cast<float>(result | uint32_t{bits & 0x80u} << 24);
}

/// out[i] = float of element i.
///   data      count elements of `dtype` at any alignment
///   throws    ValueError where dtype is not a float type
///   Numerics  equal to the functions above; F64 is rounded by the processor, to nearest even
///   cost      near memory speed on one thread; the instruction set is chosen at run time
void convert_to_f32(DType dtype, const std::byte* data, int64_t count, float* out);

/// Bulk forms of f32_to_bf16 and f32_to_f16. `out` may be unaligned (a tensor in a file image).
void convert_f32_to_bf16(const float* data, int64_t count, std::byte* out);
void convert_f32_to_f16(const float* data, int64_t count, std::byte* out);

/// data[i] = bf16_to_f32(f32_to_bf16(data[i])), in place.
void round_to_bf16(float* data, int64_t count);

}  // namespace qlora::io
