#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/blockwise8_math.h"
#include "quant/four_bit_type.h"

namespace qlora::quant {

/// Half the widest gap between two levels, the most that rounding moves x in [-1, 1].
inline constexpr float kNf4MaxError = 0.15190358f;  // between -1 and -0.6961928
inline constexpr float kFp4MaxError = 0.16666667f;  // between 2/3 and 1

inline constexpr int64_t kNestedBlockSize = 256;  // scales that share one nested absmax
inline constexpr float kMinAbsmax = 1e-38f;  // least divisor of a block, as bitsandbytes has it

/// Value of an NF4 code, rising with the code.
///   Source    Dettmers et al., QLoRA, arXiv:2305.14314, Appendix E
QLORA_HD float nf4_level(uint8_t code) {
  static constexpr float kLevels[16] = {-1.0f,
                                        -0.6961928009986877f,
                                        -0.5250730514526367f,
                                        -0.39491748809814453f,
                                        -0.28444138169288635f,
                                        -0.18477343022823334f,
                                        -0.09105003625154495f,
                                        0.0f,
                                        0.07958029955625534f,
                                        0.16093020141124725f,
                                        0.24611230194568634f,
                                        0.33791524171829224f,
                                        0.44070982933044434f,
                                        0.5626170039176941f,
                                        0.7229568362236023f,
                                        1.0f};
  return kLevels[code & 15];
}

/// Value of an FP4 code: bit 3 is the sign, the rest are the positive values as bitsandbytes
/// numbers them. Codes 0 and 8 are both +0.
QLORA_HD float fp4_level(uint8_t code) {
  static constexpr float kLevels[16] = {0.0f,
                                        0.0052083334885537624f,
                                        0.6666666865348816f,
                                        1.0f,
                                        0.3333333432674408f,
                                        0.5f,
                                        0.1666666716337204f,
                                        0.25f,
                                        0.0f,
                                        -0.0052083334885537624f,
                                        -0.6666666865348816f,
                                        -1.0f,
                                        -0.3333333432674408f,
                                        -0.5f,
                                        -0.1666666716337204f,
                                        -0.25f};
  return kLevels[code & 15];
}

QLORA_HD float four_bit_level(FourBitType type, uint8_t code) {
  return type == FourBitType::kNf4 ? nf4_level(code) : fp4_level(code);
}

/// Code with the given rank among the 16 levels in rising order. NF4 codes are ranks.
QLORA_HD uint8_t four_bit_code_of_rank(FourBitType type, int rank) {
  static constexpr uint8_t kFp4Codes[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
  return type == FourBitType::kNf4 ? static_cast<uint8_t>(rank & 15) : kFp4Codes[rank & 15];
}

/// f32 midpoint of the levels of ranks k and k + 1, k in [0, 15).
QLORA_HD float four_bit_midpoint(FourBitType type, int k) {
  const float low = four_bit_level(type, four_bit_code_of_rank(type, k));
  const float high = four_bit_level(type, four_bit_code_of_rank(type, k + 1));
  return (low + high) / 2.0f;
}

/// Nearest 4-bit code of x: the number of midpoints below x selects it.
///   Range     x in [-1, 1]; NaN: no comparison holds, the code of -1
///   Ties      to the lower level (as bitsandbytes: strict '>')
///   Error     at most kNf4MaxError, kFp4MaxError (plus rounding of a midpoint, 2^-25)
///   FP4       0 is code 0, a positive x below 0.0026 is code 8 (both +0): bitsandbytes on the CPU;
///             its CUDA kernel gives tiny negative values code 8 instead
QLORA_HD uint8_t four_bit_code(FourBitType type, float x) {
  int rank = 0;
  for (int k = 0; k < 15; ++k) rank += x > four_bit_midpoint(type, k) ? 1 : 0;
  return four_bit_code_of_rank(type, rank);
}

QLORA_HD uint8_t nf4_code(float x) {
  return four_bit_code(FourBitType::kNf4, x);
}
QLORA_HD uint8_t fp4_code(float x) {
  return four_bit_code(FourBitType::kFp4, x);
}

/// Byte j holds element 2j in its high nibble and element 2j + 1 in its low one.
QLORA_HD uint8_t four_bit_pack(uint8_t first, uint8_t second) {
  return static_cast<uint8_t>(first << 4 | second);
}

/// Code of element i.
QLORA_HD uint8_t four_bit_at(const uint8_t* codes, int64_t i) {
  const uint8_t byte = codes[i / 2];
  return i % 2 == 0 ? byte >> 4 : byte & 15;
}

/// How a block's elements come into [-1, 1].
///   Full      x * (1 / max(absmax, 1e-38)), and absmax is stored as it is
///   Tail      (the last block, where it has fewer than G elements) x / max(absmax, 1e-38), and
///             that divisor is stored. Both as bitsandbytes does on the CPU.
struct Nf4BlockScale {
  float stored;
  float divisor;
  float inverse;  // 0: divide
};

QLORA_HD Nf4BlockScale nf4_block_scale(float absmax, bool is_tail) {
  const float divisor = absmax > kMinAbsmax ? absmax : kMinAbsmax;
  return is_tail ? Nf4BlockScale{divisor, divisor, 0.0f}
                 : Nf4BlockScale{absmax, divisor, 1.0f / divisor};
}

QLORA_HD float nf4_normalize(float x, Nf4BlockScale scale) {
  const float ratio = scale.inverse != 0 ? x * scale.inverse : x / scale.divisor;
  return ratio < -1.0f ? -1.0f : ratio > 1.0f ? 1.0f : ratio;
}

/// Where the scales of a 4-bit matrix lie: `absmax`, or the other three.
struct Nf4Scales {
  const float* absmax = nullptr;         // [blocks]
  const uint8_t* codes = nullptr;        // [blocks], used where absmax is null
  const float* nested_absmax = nullptr;  // [ceil(blocks / 256)]
  float offset = 0;
};

/// scale(b) = level8(codes[b]) * nested_absmax[b / 256] + offset: two roundings, not fused.
QLORA_HD float nf4_scale(const Nf4Scales& scales, int64_t block) {
  if (scales.absmax != nullptr) return scales.absmax[block];
  const float nested = scales.nested_absmax[block / kNestedBlockSize];
  return blockwise8_value(signed_dynamic_table(), scales.codes[block], nested) + scales.offset;
}

/// Values that one group of the fixed-order sum takes in.
inline constexpr int kSumGroup = 256;

/// Sum of one group, missing values 0: v[i] += v[i + stride] for stride 128, 64, … 1; v[0] is it.
/// A long sum takes groups of 256 consecutive values, then groups of their sums, until one is left:
/// the same additions in the same order on every target and thread count.
QLORA_HD double sum_group(double* v) {
  for (int stride = kSumGroup / 2; stride > 0; stride /= 2) {
    for (int i = 0; i < stride; ++i) v[i] += v[i + stride];
  }
  return v[0];
}

}  // namespace qlora::quant
