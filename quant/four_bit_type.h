#pragma once

#include <cstdint>

namespace qlora::quant {

/// The 16 levels that a code selects. On disk by name ("nf4", "fp4"), never by number.
enum class FourBitType : uint8_t {
  kNf4,  // quantiles of a normal distribution (QLoRA, arXiv:2305.14314, Appendix E)
  kFp4,  // sign, two bits of exponent, one of mantissa, as bitsandbytes places them
};

}  // namespace qlora::quant
