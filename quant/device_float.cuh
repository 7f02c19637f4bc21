#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "quant/float_math.h"

namespace qlora::quant {

// Numbers of 32 and 16 bits in device memory, one at a time or 16 bytes at once. Halves go through
// the hardware's conversions: those of float_math.h but for the payload of a NaN.

__device__ inline float widened(float x) {
  return x;
}
__device__ inline float widened(F16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
__device__ inline float widened(BF16 x) {
  return bf16_to_float(x.bits);
}

__device__ inline void narrow(float x, float* out) {
  *out = x;
}
__device__ inline void narrow(float x, F16* out) {
  out->bits = __half_as_ushort(__float2half_rn(x));
}
__device__ inline void narrow(float x, BF16* out) {
  out->bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/// Two halves in a word, the first in its low bits.
__device__ inline uint32_t narrow_pair(float low, float high, const F16*) {
  const __half2 pair = __floats2half2_rn(low, high);
  return static_cast<uint32_t>(__half_as_ushort(pair.x)) |
         static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16;
}
__device__ inline uint32_t narrow_pair(float low, float high, const BF16*) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) |
         static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16;
}

/// Words that one instruction moves: 4, 8 or 16 bytes, aligned to their size.
template <int Count>
struct alignas(4 * Count) Words {
  uint32_t at[Count];
};

template <int Count>
__device__ inline Words<Count> load_words(const void* from) {
  return *static_cast<const Words<Count>*>(from);
}

/// N numbers from `from`, of which `left` are there; the others are 0.
///   wide      `from` is aligned to N numbers: they come in pieces of 16 bytes
template <int N, class T>
__device__ inline void load_run(const T* from, int64_t left, bool wide, float (&out)[N]) {
  if (!wide || left < N) {
    for (int i = 0; i < N; ++i) out[i] = i < left ? widened(from[i]) : 0.0f;
    return;
  }
  constexpr int kWords = N * int{sizeof(T)} / 4, kPiece = kWords < 4 ? kWords : 4;
#pragma unroll
  for (int p = 0; p < kWords / kPiece; ++p) {
    const auto words = load_words<kPiece>(reinterpret_cast<const uint32_t*>(from) + p * kPiece);
#pragma unroll
    for (int w = 0; w < kPiece; ++w) {
      const int at = p * kPiece + w;
      if constexpr (sizeof(T) == 4) {
        out[at] = bits_float(words.at[w]);
      } else {
        out[2 * at] = widened(T{static_cast<uint16_t>(words.at[w])});
        out[2 * at + 1] = widened(T{static_cast<uint16_t>(words.at[w] >> 16)});
      }
    }
  }
}

/// Reverse: each number is rounded once, to nearest even.
template <int N, class T>
__device__ inline void store_run(const float (&in)[N], int64_t left, bool wide, T* to) {
  if (!wide || left < N) {
    for (int i = 0; i < N && i < left; ++i) narrow(in[i], to + i);
    return;
  }
  constexpr int kWords = N * int{sizeof(T)} / 4, kPiece = kWords < 4 ? kWords : 4;
#pragma unroll
  for (int p = 0; p < kWords / kPiece; ++p) {
    Words<kPiece> words;
#pragma unroll
    for (int w = 0; w < kPiece; ++w) {
      const int at = p * kPiece + w;
      if constexpr (sizeof(T) == 4) {
        words.at[w] = float_bits(in[at]);
      } else {
        words.at[w] = narrow_pair(in[2 * at], in[2 * at + 1], to);
      }
    }
    *reinterpret_cast<Words<kPiece>*>(reinterpret_cast<uint32_t*>(to) + p * kPiece) = words;
  }
}

/// Whether an array may be moved `bytes` at a time.
inline bool is_aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

/// The same for every row of an array of `width` numbers a row, N at a time.
template <int N, class T>
bool rows_are_aligned(const T* p, int64_t width) {
  return width % N == 0 && is_aligned(p, N * int64_t{sizeof(T)} < 16 ? N * int64_t{sizeof(T)} : 16);
}

}  // namespace qlora::quant
