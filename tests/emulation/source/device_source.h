#pragma once

// Included before everything else where a .cu file is compiled for the host: what CUDA C++ means
// there. Threads are the fibers of device/machine.h, shared memory is static, global memory is the
// heap, so that ThreadSanitizer sees every access. cub, textures and tensor cores are not known:
// such a file does not compile.

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <functional>

#include "tests/emulation/device/machine.h"
#include "tests/emulation/device/warp.h"

#undef __shared__
#define __shared__ static
#undef __launch_bounds__
#define __launch_bounds__(...)
#define threadIdx (::qlora::emulation::machine().running().index)
#define blockIdx (::qlora::emulation::machine().running().block->index)
#define blockDim (::qlora::emulation::machine().running().block->dim)
#define gridDim (::qlora::emulation::machine().running().block->grid)

namespace qlora::emulation::source {

/// Runs the body once per thread of a launch, at once; streams do not matter here.
void launch_blocks(const std::function<void()>& body, dim3 grid, dim3 block,
                   size_t dynamic_shared = 0, cudaStream_t stream = nullptr);

inline Thread& self() {
  return machine().running();
}

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(self().block->shared);
}

/// A value of up to 8 bytes through a shuffle, in halves of 32 bits as nvcc does it.
template <class T, class F>
T shuffle_bits(T value, const F& shuffle) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if constexpr (sizeof(T) == 4) return as<T>(shuffle(as<b32>(value)));
  const b64 bits = as<b64>(value);
  const b64 low = shuffle(static_cast<b32>(bits)), high = shuffle(static_cast<b32>(bits >> 32));
  return as<T>(high << 32 | low);
}

/// The clamp operand that nvcc makes of a width.
inline b32 clamp_of(int width, b32 end) {
  return static_cast<b32>((kLanes - width) << 8) | end;
}

/// A relaxed atomic update, which orders what a fence has released before what comes after it.
template <class T, class F>
T update(T* place, const F& f) {
  if (self().has_released) happens_before(place);
  T before = __atomic_load_n(place, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(place, &before, f(before), false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  happens_after(place);
  return before;
}
inline float update(float* place, const std::function<float(float)>& f) {
  const auto bits = [&](b32 x) { return std::bit_cast<b32>(f(std::bit_cast<float>(x))); };
  return std::bit_cast<float>(update(reinterpret_cast<b32*>(place), bits));
}

}  // namespace qlora::emulation::source

// Where a barrier or a warp call stands tells two of them apart.
#define QLORA_LINE int line = __builtin_LINE()

inline void __syncthreads(QLORA_LINE) {
  qlora::emulation::block_barrier(qlora::emulation::source::self(), line);
}
inline int __syncthreads_count(int value, QLORA_LINE) {
  return static_cast<int>(
      qlora::emulation::barrier_popc(qlora::emulation::source::self(), value != 0, line));
}
inline void __syncwarp(unsigned mask = ~0u, QLORA_LINE) {
  qlora::emulation::warp_barrier(qlora::emulation::source::self(), mask, line);
}
inline void __threadfence() {
  qlora::emulation::release(qlora::emulation::source::self());
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, QLORA_LINE) {
  using namespace qlora::emulation;
  return source::shuffle_bits(value, [&](b32 bits) {
    bool is_valid = false;
    return shuffle_idx(source::self(), bits, static_cast<b32>(lane), source::clamp_of(width, 31),
                       mask, is_valid, line);
  });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, QLORA_LINE) {
  using namespace qlora::emulation;
  return source::shuffle_bits(value, [&](b32 bits) {
    bool is_valid = false;
    return shuffle_bfly(source::self(), bits, static_cast<b32>(lanes), source::clamp_of(width, 31),
                        mask, is_valid, line);
  });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, QLORA_LINE) {
  using namespace qlora::emulation;
  return source::shuffle_bits(value, [&](b32 bits) {
    bool is_valid = false;
    return shuffle_down(source::self(), bits, by, source::clamp_of(width, 31), mask, is_valid,
                        line);
  });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, QLORA_LINE) {
  using namespace qlora::emulation;
  return source::shuffle_bits(value, [&](b32 bits) {
    bool is_valid = false;
    return shuffle_up(source::self(), bits, by, source::clamp_of(width, 0), mask, is_valid, line);
  });
}
inline unsigned __ballot_sync(unsigned mask, int value, QLORA_LINE) {
  return qlora::emulation::vote_ballot(qlora::emulation::source::self(), value != 0, mask, line);
}
inline int __any_sync(unsigned mask, int value, QLORA_LINE) {
  return __ballot_sync(mask, value, line) != 0;
}
inline int __all_sync(unsigned mask, int value, QLORA_LINE) {
  return __ballot_sync(mask, value, line) == mask;
}

template <class T>
T atomicAdd(T* place, std::type_identity_t<T> value) {
  return qlora::emulation::source::update(place, [=](T x) { return static_cast<T>(x + value); });
}
template <class T>
T atomicMin(T* place, std::type_identity_t<T> value) {
  return qlora::emulation::source::update(place, [=](T x) { return std::min(x, value); });
}
template <class T>
T atomicMax(T* place, std::type_identity_t<T> value) {
  return qlora::emulation::source::update(place, [=](T x) { return std::max(x, value); });
}
template <class T>
T atomicOr(T* place, std::type_identity_t<T> value) {
  return qlora::emulation::source::update(place, [=](T x) { return static_cast<T>(x | value); });
}
template <class T>
T atomicExch(T* place, std::type_identity_t<T> value) {
  return qlora::emulation::source::update(place, [=](T) { return value; });
}
template <class T>
T atomicCAS(T* place, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  return qlora::emulation::source::update(place, [=](T x) { return x == expected ? value : x; });
}
inline unsigned atomicInc(unsigned* place, unsigned last) {
  return qlora::emulation::source::update(place,
                                          [=](unsigned x) { return x >= last ? 0u : x + 1; });
}

template <class T>
T __ldg(const T* place) {
  return *place;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
/// Four of the eight bytes of x (0 to 3) and y (4 to 7), one a nibble of the selector; its top bit,
/// a byte's sign, is not known.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned byte = (selector >> (4 * i)) & 7u;
    result |= static_cast<unsigned>(both >> (8 * byte) & 255u) << (8 * i);
  }
  return result;
}
