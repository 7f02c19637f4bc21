#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "io/dtype.h"

namespace qlora::io {

/// Conversions between float and its short forms. Widening is exact; a NaN stays a NaN.
/// Narrowing rounds to nearest, ties to even, and overflows to infinity as IEEE 754 says.
/// None of them reads the processor's rounding or denormal mode.
float f16_to_f32(uint16_t bits);
inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}
float f8e4m3_to_f32(uint8_t bits);  // no infinity; 0x7f and 0xff are NaN (OCP FP8, "E4M3FN")
float f8e5m2_to_f32(uint8_t bits);
uint16_t f32_to_f16(float value);
uint16_t f32_to_bf16(float value);  // a NaN becomes the quiet NaN 0x7fc0 with its sign

/// out[i] = float of element i.
///   data      count elements of `dtype` at any alignment
///   throws    ValueError where dtype is not a float type; F64 is rounded to nearest even
///   cost      runs at memory speed on one thread; the instruction set is chosen at run time
void convert_to_f32(DType dtype, const std::byte* data, int64_t count, float* out);

/// Bulk forms of f32_to_bf16 and f32_to_f16. `out` may be unaligned (a tensor in a file image).
void convert_f32_to_bf16(const float* data, int64_t count, std::byte* out);
void convert_f32_to_f16(const float* data, int64_t count, std::byte* out);

/// data[i] = bf16_to_f32(f32_to_bf16(data[i])), in place.
void round_to_bf16(float* data, int64_t count);

}  // namespace qlora::io
