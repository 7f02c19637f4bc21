#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/float_math.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {

/// 2^23 + code, a float of the code's bits: no conversion is needed, of which a GPU does a quarter
/// as many. Less kWordCentre + zero point it is code − zero point, exactly.
///   Range     code below 2^23
inline constexpr float kWordCentre = 8388608.0f;  // 2^23

QLORA_HD float raised_code(uint32_t code) {
  return bits_float(0x4B000000u | code);
}

/// Code of bits [shift, shift + 4) less its zero point, exactly.
///   centre    kWordCentre + zero point
QLORA_HD float centred_code(uint32_t word, int shift, float centre) {
  return raised_code((word >> shift) & 15u) - centre;
}

/// Bits of column or row `index` of the eight that share a word.
QLORA_HD int awq_shift(int64_t index) {
  return 4 * awq_nibble(static_cast<int>(index % 8));
}
QLORA_HD int gptq_shift(int64_t index) {
  return 4 * static_cast<int>(index % 8);
}

/// A word of zero points as they are meant: GPTQ v1 stores them less one, modulo the whole word.
QLORA_HD uint32_t zero_word(uint32_t stored, bool less_one) {
  return less_one ? stored + 0x11111111u : stored;
}

}  // namespace qlora::quant
