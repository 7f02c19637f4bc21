#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/float_math.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {

/// Code of bits [shift, shift + 4) less its zero point, exactly: 2^23 + code is a float of code's
/// bits, so that no conversion is needed.
///   centre    kWordCentre + zero point
inline constexpr float kWordCentre = 8388608.0f;  // 2^23

QLORA_HD float centred_code(uint32_t word, int shift, float centre) {
  return bits_float(0x4B000000u | ((word >> shift) & 15u)) - centre;
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
