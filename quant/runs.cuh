#pragma once

#include <bit>
#include <cstdint>

#include "quant/device_float.cuh"
#include "quant/four_bit_type.h"
#include "quant/nf4_math.h"

namespace qlora::quant {

// What decoding kernels share: a thread takes runs of eight neighbours, several runs at once, so
// that loads are words, stores are 16 bytes, and enough of them are on their way.

inline constexpr int kRun = 8;           // elements of a run
inline constexpr int kRunsOfThread = 4;  // that are loaded before the first is decoded

/// i / size, a shift where the size is a power of two. Otherwise of 32 bits: a division of 64 is a
/// call, for which registers go to memory.
///   Range     0 <= i, size >= 1; both below 2^32 where the size is no power of two
struct Quotient {
  int64_t size;
  int shift;  // -1: no power of two

  explicit Quotient(int64_t divisor)
      : size(divisor),
        shift(std::has_single_bit(static_cast<uint64_t>(divisor))
                  ? std::countr_zero(static_cast<uint64_t>(divisor))
                  : -1) {}
  __device__ int64_t of(int64_t i) const {
    return shift >= 0 ? i >> shift : static_cast<uint32_t>(i) / static_cast<uint32_t>(size);
  }
};

/// Levels of a 4-bit type in shared memory: sixteen banks, no conflict.
struct LevelTable {
  float levels[16];

  /// All threads of the block take part.
  __device__ void fill(FourBitType type) {
    if (threadIdx.x < 16) {
      levels[threadIdx.x] = four_bit_level(type, static_cast<uint8_t>(threadIdx.x));
    }
    __syncthreads();
  }
  __device__ float at_bytes(uint32_t offset) const {
    return *reinterpret_cast<const float*>(reinterpret_cast<const char*>(levels) + offset);
  }
  /// The eight levels of a word of codes, the first of a byte in its high nibble. Codes become byte
  /// offsets four at a time: a level costs a byte's extraction and a load.
  __device__ void decode(uint32_t word, float (&out)[kRun]) const {
    const uint32_t even = (word >> 2) & 0x3C3C3C3Cu, odd = (word << 2) & 0x3C3C3C3Cu;
#pragma unroll
    for (int j = 0; j < kRun / 2; ++j) {
      const auto byte = static_cast<uint32_t>(0x4440 + j);
      out[2 * j] = at_bytes(__byte_perm(even, 0, byte));
      out[2 * j + 1] = at_bytes(__byte_perm(odd, 0, byte));
    }
  }
};

}  // namespace qlora::quant
