#pragma once

#include <cstdint>

#include "quant/float_math.h"

namespace qlora::quant {

/// Greatest magnitudes of the elements below and above 0, as bits: a grid always takes 0 in, so
/// that nothing else of a group's range matters. NaN and infinity are >= kFloatInfinity.
struct Reach {
  uint32_t below = 0;
  uint32_t above = 0;

  __device__ void add(float x) {
    const uint32_t bits = float_bits(x), magnitude = bits & ~kFloatSignBit;
    const uint32_t up = bits == magnitude ? magnitude : 0, down = bits == magnitude ? 0 : magnitude;
    above = above > up ? above : up;
    below = below > down ? below : down;
  }
  __device__ bool is_finite() const { return is_finite_bits(below) && is_finite_bits(above); }
  __device__ float low() const { return -bits_float(below); }
  __device__ float high() const { return bits_float(above); }
};

}  // namespace qlora::quant
