#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "tests/emulation/planted/kernels.h"

namespace qlora::emulation::planted {
namespace {

using qlora::cuda::check;

__device__ int global_index() {
  return static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
}

template <Variant V>
__global__ void reverse_blocks_kernel(const float* in, float* out, int count) {
  __shared__ float values[kThreads];
  const int i = global_index(), thread = static_cast<int>(threadIdx.x);
  values[thread] = i < count ? in[i] : 0;
  if constexpr (V == Variant::kRight) __syncthreads();
  if (i < count) out[i] = values[kThreads - 1 - thread];
}

template <bool IsSum>
__device__ float reduce(float* storage, float value) {
  const int thread = static_cast<int>(threadIdx.x);
  storage[thread] = value;
  for (int stride = kThreads / 2; stride > 0; stride /= 2) {
    __syncthreads();
    if (thread >= stride) continue;
    const float other = storage[thread + stride];
    storage[thread] = IsSum ? storage[thread] + other : fmaxf(storage[thread], other);
  }
  return thread == 0 ? storage[0] : 0;  // the others may be a step behind
}

template <Variant V>
__global__ void sum_and_maximum_kernel(const float* in, float* out, int count) {
  __shared__ float storage[kThreads];
  const float value = global_index() < count ? in[global_index()] : 0;
  const float sum = reduce<true>(storage, value);
  if constexpr (V == Variant::kRight) __syncthreads();
  const float maximum = reduce<false>(storage, value);
  if (threadIdx.x != 0) return;
  out[blockIdx.x] = sum;
  out[blockIdx.x + gridDim.x] = maximum;
}

template <Variant V>
__global__ void warp_sums_kernel(const float* in, float* out, int count) {
  const int i = global_index(), lane = static_cast<int>(threadIdx.x) % 32;
  float sum = i < count ? in[i] : 0;
  for (int stride = 16; stride > 0; stride /= 2) {
    if (V == Variant::kWrong && lane >= stride) break;
    sum += __shfl_down_sync(0xFFFFFFFFu, sum, stride);
  }
  if (lane == 0) out[i / 32] = sum;
}

template <Variant V>
__global__ void twice_kernel(const float* in, float* out, int count) {
  const int i = global_index();
  if (V == Variant::kRight && i >= count) return;
  out[i] = 2 * (i < count ? in[i] : 0);
}

template <Variant V>
__global__ void count_positive_kernel(const float* in, int* out, int count) {
  const int i = global_index();
  const int found = __syncthreads_count(i < count && in[i] > 0);
  if (threadIdx.x != 0) return;
  if constexpr (V == Variant::kRight) {
    atomicAdd(out, found);
  } else {
    *out += found;
  }
}

template <Variant V>
__global__ void swap_neighbours_kernel(const float* in, float* out, int count) {
  __shared__ float values[kThreads];
  const int i = global_index(), thread = static_cast<int>(threadIdx.x);
  values[thread] = i < count ? in[i] : 0;
  if constexpr (V == Variant::kRight) __syncwarp();
  if (i < count) out[i] = values[thread ^ 1];
}

template <Variant V>
__global__ void meet_kernel(const float* in, float* out, int count) {
  const int i = global_index();
  if (V == Variant::kRight || threadIdx.x < kThreads / 2) {
    __syncthreads();
  } else {
    out[i] = 0;
    __syncthreads();
  }
  if (i < count) out[i] = in[i];
}

template <Variant V>
__global__ void keep_shared_kernel(const float* in, float* out, int count) {
  __shared__ float values[kThreads];
  const int i = global_index(), thread = static_cast<int>(threadIdx.x);
  if (i >= count) return;
  if (V == Variant::kRight || thread % 2 == 0) values[thread] = in[i];
  out[i] = values[thread];
}

template <Variant V>
__global__ void sum_in_last_block_kernel(const float* in, float* partial, unsigned* ticket,
                                         float* out, int count) {
  __shared__ float storage[kThreads];
  __shared__ bool is_last;
  const float sum = reduce<true>(storage, global_index() < count ? in[global_index()] : 0);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
    if constexpr (V == Variant::kRight) __threadfence();
    is_last = atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last || threadIdx.x != 0) return;
  float total = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) total += partial[b];
  *out = total;
}

template <Variant V>
__global__ void copy_four_kernel(const float* in, float* out, int count) {
  const int i = 4 * global_index();
  if (i + 4 >= count) return;
  const float4 four = *reinterpret_cast<const float4*>(in + i + (V == Variant::kRight ? 0 : 1));
  *reinterpret_cast<float4*>(out + i) = four;
}

template <Variant V>
__global__ void wait_in_halves_kernel(const float* in, float* out, int count) {
  const int i = global_index();
  if (V == Variant::kWrong && threadIdx.x % 32 < 16) {
    __syncwarp();
  } else {
    __syncthreads();
  }
  if (i < count) out[i] = in[i];
}

__global__ void reverse_dynamic_kernel(const float* in, float* out, int count) {
  extern __shared__ float values[];
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < count) values[thread] = in[thread];
  __syncthreads();
  if (thread < count) out[thread] = values[count - 1 - thread];
}

__global__ void add_to_kernel(const float* in, float* out, int count) {
  const int i = global_index();
  if (i < count) out[i] += in[i];
}

unsigned blocks_of(int count) {
  return qlora::cuda::grid_size(count, kThreads);
}

}  // namespace

// Each host function launches one of two instantiations.
void reverse_blocks(Variant variant, const float* in, float* out, int count, cudaStream_t stream) {
  variant == Variant::kRight ? reverse_blocks_kernel<Variant::kRight>
      <<<blocks_of(count), kThreads, 0, stream>>>(in, out, count)
                             : reverse_blocks_kernel<Variant::kWrong>
      <<<blocks_of(count), kThreads, 0, stream>>>(in, out, count);
  check(cudaGetLastError());
}

void sum_and_maximum(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? sum_and_maximum_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : sum_and_maximum_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void warp_sums(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? warp_sums_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : warp_sums_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void twice(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? twice_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : twice_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void count_positive(Variant variant, const float* in, int* out, int count) {
  variant == Variant::kRight
      ? count_positive_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : count_positive_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void swap_neighbours(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? swap_neighbours_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : swap_neighbours_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void meet(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? meet_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : meet_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void keep_shared(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? keep_shared_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : keep_shared_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void sum_in_last_block(Variant variant, const float* in, float* partial, unsigned* ticket,
                       float* out, int count) {
  variant == Variant::kRight ? sum_in_last_block_kernel<Variant::kRight>
      <<<blocks_of(count), kThreads>>>(in, partial, ticket, out, count)
                             : sum_in_last_block_kernel<Variant::kWrong>
      <<<blocks_of(count), kThreads>>>(in, partial, ticket, out, count);
  check(cudaGetLastError());
}

void copy_four(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? copy_four_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : copy_four_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void wait_in_halves(Variant variant, const float* in, float* out, int count) {
  variant == Variant::kRight
      ? wait_in_halves_kernel<Variant::kRight><<<blocks_of(count), kThreads>>>(in, out, count)
      : wait_in_halves_kernel<Variant::kWrong><<<blocks_of(count), kThreads>>>(in, out, count);
  check(cudaGetLastError());
}

void reverse_dynamic(Variant variant, const float* in, float* out, int count) {
  const int held = variant == Variant::kRight ? count : count - 1;
  reverse_dynamic_kernel<<<1, kThreads, held * sizeof(float)>>>(in, out, count);
  check(cudaGetLastError());
}

void add_to(const float* in, float* out, int count, cudaStream_t stream) {
  add_to_kernel<<<blocks_of(count), kThreads, 0, stream>>>(in, out, count);
  check(cudaGetLastError());
}

}  // namespace qlora::emulation::planted
