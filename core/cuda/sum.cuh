#pragma once

#include "core/cuda/reduce.cuh"

namespace qlora::cuda {

/// Sum of the 32 lanes, in all of them, by halving: five additions on every term's way. Every lane
/// has to take part.
__device__ inline float warp_sum(float value) {
  for (int stride = kWarpSize / 2; stride > 0; stride /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, stride);
  }
  return value;
}

/// Sum of the Threads threads of a block, in all of them: warp_sum, then the warps one after the
/// other. Every thread has to take part; a second call in the same kernel is safe.
template <int Threads>
__device__ inline float block_sum_all(float value) {
  static_assert(Threads % kWarpSize == 0 && Threads <= 1024);
  __shared__ float of_warps[Threads / kWarpSize];
  const int thread = static_cast<int>(threadIdx.x);
  const float warp = warp_sum(value);
  if (thread % kWarpSize == 0) of_warps[thread / kWarpSize] = warp;
  __syncthreads();
  float sum = 0;
  for (int w = 0; w < Threads / kWarpSize; ++w) sum += of_warps[w];
  __syncthreads();  // nobody writes of_warps again before all have read it
  return sum;
}

}  // namespace qlora::cuda
