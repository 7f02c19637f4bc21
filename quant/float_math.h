#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "core/host_device.h"

namespace qlora::quant {

/// Bits of a float and back. A union is what both compilers turn into a plain move.
QLORA_HD uint32_t float_bits(float x) {
  union {
    float number;
    uint32_t bits;
  } both = {x};
  return both.bits;
}

QLORA_HD float bits_float(uint32_t bits) {
  union {
    uint32_t bits;
    float number;
  } both = {bits};
  return both.number;
}

inline constexpr uint32_t kFloatSignBit = 0x80000000u;
inline constexpr uint32_t kFloatInfinity = 0x7F800000u;  // |bits| from here on: not finite

QLORA_HD bool is_finite_bits(uint32_t bits) {
  return (bits & ~kFloatSignBit) < kFloatInfinity;
}

QLORA_HD float bf16_to_float(uint16_t half) {
  return bits_float(static_cast<uint32_t>(half) << 16);
}

/// Rounds to nearest, ties to even; every NaN becomes 0x7FC0, as in libtorch.
QLORA_HD uint16_t float_to_bf16(float x) {
  const uint32_t bits = float_bits(x);
  if ((bits & ~kFloatSignBit) > kFloatInfinity) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

/// Exact, subnormals included.
QLORA_HD float f16_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7FFFu;
  if (magnitude >= 0x7C00u) {  // infinity, NaN (made quiet, as the processor does)
    const uint32_t quiet = magnitude > 0x7C00u ? 0x00400000u : 0u;
    return bits_float(sign | kFloatInfinity | quiet | ((magnitude & 0x3FFu) << 13));
  }
  if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + 0x38000000u));
  return bits_float(sign | float_bits(static_cast<float>(magnitude) * 0x1p-24f));
}

/// Rounds to nearest, ties to even; overflows to infinity from 65520 on.
QLORA_HD uint16_t float_to_f16(float x) {
  const uint32_t bits = float_bits(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & ~kFloatSignBit;
  if (magnitude > kFloatInfinity) {
    return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
  }
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at bit 2^-24
    const uint32_t sum = float_bits(bits_float(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (sum - 0x3F000000u));
  }
  const uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - 0x38000000u;
  return static_cast<uint16_t>(sign | (rounded >> 13));
}

/// One type per 16-bit format, so that kernels are templates over {float, F16, BF16}.
struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

QLORA_HD float to_float(float x) {
  return x;
}
QLORA_HD float to_float(F16 x) {
  return f16_to_float(x.bits);
}
QLORA_HD float to_float(BF16 x) {
  return bf16_to_float(x.bits);
}

/// Number i of an array of that kind.
QLORA_HD float load_number(FloatKind kind, const void* numbers, int64_t i) {
  switch (kind) {
    case FloatKind::kF32:
      return static_cast<const float*>(numbers)[i];
    case FloatKind::kF16:
      return to_float(static_cast<const F16*>(numbers)[i]);
    case FloatKind::kBF16:
      break;
  }
  return to_float(static_cast<const BF16*>(numbers)[i]);
}

QLORA_HD void store_rounded(float x, float* out) {
  *out = x;
}
QLORA_HD void store_rounded(float x, F16* out) {
  out->bits = float_to_f16(x);
}
QLORA_HD void store_rounded(float x, BF16* out) {
  out->bits = float_to_bf16(x);
}

/// Number i of an array of that kind becomes x, rounded once.
QLORA_HD void store_number(FloatKind kind, float x, void* numbers, int64_t i) {
  switch (kind) {
    case FloatKind::kF32:
      return store_rounded(x, static_cast<float*>(numbers) + i);
    case FloatKind::kF16:
      return store_rounded(x, static_cast<F16*>(numbers) + i);
    case FloatKind::kBF16:
      break;
  }
  store_rounded(x, static_cast<BF16*>(numbers) + i);
}

/// Calls f with a null pointer whose type is that of the kind: float*, F16* or BF16*.
template <class F>
void with_kind(FloatKind kind, const F& f) {
  switch (kind) {
    case FloatKind::kF32:
      return f(static_cast<float*>(nullptr));
    case FloatKind::kF16:
      return f(static_cast<F16*>(nullptr));
    case FloatKind::kBF16:
      return f(static_cast<BF16*>(nullptr));
  }
}

}  // namespace qlora::quant
