#pragma once

#include <cstdint>

namespace qlora::cuda {

inline constexpr int kWarpSize = 32;

/// Greatest value of the 32 lanes, in all of them. Every lane has to take part.
__device__ inline uint32_t warp_max(uint32_t value) {
  for (int stride = kWarpSize / 2; stride > 0; stride /= 2) {
    const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, value, stride);
    value = value > other ? value : other;
  }
  return value;
}

/// Greatest value of the Threads threads of a block, in all of them. Every thread has to take part;
/// a second call in the same kernel is safe.
template <int Threads>
__device__ inline uint32_t block_max(uint32_t value) {
  static_assert(Threads % kWarpSize == 0 && Threads <= 1024);
  __shared__ uint32_t of_warps[Threads / kWarpSize];
  const int thread = static_cast<int>(threadIdx.x);
  const uint32_t warp = warp_max(value);
  if (thread % kWarpSize == 0) of_warps[thread / kWarpSize] = warp;
  __syncthreads();
  uint32_t most = 0;
  for (int w = 0; w < Threads / kWarpSize; ++w) most = most > of_warps[w] ? most : of_warps[w];
  __syncthreads();  // nobody writes of_warps again before all have read it
  return most;
}

/// Sum of `v`, one value per thread, in the order v[i] += v[i + stride] for stride Threads/2 … 1.
/// Returned to thread 0, 0 to the others. `v` is shared memory of the block; every thread has to
/// take part.
template <int Threads>
__device__ inline double block_sum(double* v) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int stride = Threads / 2; stride > 0; stride /= 2) {
    __syncthreads();
    if (thread < stride) v[thread] += v[thread + stride];
  }
  return thread == 0 ? v[0] : 0;  // another thread would read while thread 0 adds
}

}  // namespace qlora::cuda
