#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/affine_math.h"
#include "quant/float_math.h"

namespace qlora::quant {

inline constexpr float kFp8Max = 448.0f;      // greatest number of E4M3
inline constexpr uint8_t kFp8MaxCode = 0x7E;  // its code; 0x7F and 0xFF are NaN, there is no inf
inline constexpr float kFp8LeastNormal = 0x1p-6f;

/// Number of an E4M3 code ("e4m3fn": finite, NaN alone is special). Exact.
///   Source    Micikevicius et al., FP8 Formats for Deep Learning, arXiv:2209.05433
QLORA_HD float fp8_to_float(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24, magnitude = code & 0x7Fu;
  if (magnitude == 0x7Fu) return bits_float(sign | 0x7FC00000u);
  if (magnitude >= 8u) return bits_float(sign | ((magnitude << 20) + 0x3C000000u));
  return bits_float(sign | float_bits(static_cast<float>(magnitude) * 0x1p-9f));
}

/// Nearest E4M3 code, ties to even; beyond ±448 the greatest number, NaN stays NaN.
QLORA_HD uint8_t float_to_fp8(float x) {
  const uint32_t bits = float_bits(x), magnitude = bits & ~kFloatSignBit;
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (magnitude > kFloatInfinity) return static_cast<uint8_t>(sign | 0x7Fu);
  if (magnitude < float_bits(kFp8LeastNormal)) {  // subnormal: adding 2^14 rounds at bit 2^-9
    const uint32_t sum = float_bits(bits_float(magnitude) + 0x1p14f);
    return static_cast<uint8_t>(sign | (sum - float_bits(0x1p14f)));
  }
  if (magnitude >= float_bits(kFp8Max)) return static_cast<uint8_t>(sign | kFp8MaxCode);
  const uint32_t rounded = magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u) - 0x3C000000u;
  return static_cast<uint8_t>(sign | (rounded >> 20));
}

/// Scale of numbers whose greatest magnitude has these bits: not finite where they are not, or
/// where it leaves its type.
QLORA_HD float fp8_scale(uint32_t magnitude, ScaleType type) {
  return rounded_scale(bits_float(magnitude) / kFp8Max, type);
}

}  // namespace qlora::quant
