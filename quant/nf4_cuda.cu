#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/cuda_lowest.cuh"
#include "quant/nf4_backend.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kBlocksPerLaunch =
    kThreads / qlora::cuda::kWarpSize;  // one warp per block of weights

/// out[i - begin] = level(code i) * scale(i / block_size)
///   Launch    one thread per code byte of the range, 256 per block; a byte's elements share
///             a scale
///   Numerics  bit-exact with cpu::dequantize_nf4
template <class Out>
__global__ void dequantize_nf4_kernel(Nf4DequantArgs a, Out* out) {
  const int64_t byte = a.begin / 2 + int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t first = 2 * byte;
  const int64_t end = a.begin + a.count;
  if (first >= end) return;
  const float scale = nf4_scale(a.scales, first / a.block_size);
  const uint8_t codes = a.codes[byte];
  if (first >= a.begin) {
    store_rounded(four_bit_level(a.type, codes >> 4) * scale, out + first - a.begin);
  }
  if (first + 1 < end) {
    store_rounded(four_bit_level(a.type, codes & 15) * scale, out + first + 1 - a.begin);
  }
}

/// Codes and absmax of the blocks.
///   Launch    one warp per block of weights, 8 warps per CUDA block; lanes stride over the
///             elements
///   Numerics  bit-exact with cpu::quantize_nf4: a maximum does not depend on the order
template <class In>
__global__ void quantize_nf4_kernel(Nf4QuantArgs a, const In* in) {
  const int lane = static_cast<int>(threadIdx.x) % qlora::cuda::kWarpSize;
  const int64_t block =
      int64_t{blockIdx.x} * kBlocksPerLaunch + threadIdx.x / qlora::cuda::kWarpSize;
  const int64_t begin = block * a.block_size;
  if (begin >= a.count) return;  // the whole warp
  const int64_t left = a.count - begin;
  const int64_t size = left < a.block_size ? left : a.block_size;

  uint32_t most = 0;
  for (int64_t i = lane; i < size; i += qlora::cuda::kWarpSize) {
    const uint32_t bits = float_bits(to_float(in[begin + i])) & ~kFloatSignBit;
    most = most > bits ? most : bits;
  }
  most = qlora::cuda::warp_max(most);
  const bool is_finite = is_finite_bits(most);
  const Nf4BlockScale scale =
      nf4_block_scale(is_finite ? bits_float(most) : 0.0f, size < a.block_size);
  if (lane == 0) {
    a.absmax[block] = is_finite ? scale.stored : 0.0f;
    if (!is_finite) lower_to(a.first_bad_block, block);
  }
  for (int64_t j = lane; 2 * j < size; j += qlora::cuda::kWarpSize) {
    const float first = to_float(in[begin + 2 * j]);
    const float second = 2 * j + 1 < size ? to_float(in[begin + 2 * j + 1]) : 0.0f;
    a.codes[begin / 2 + j] =
        is_finite ? four_bit_pack(four_bit_code(a.type, nf4_normalize(first, scale)),
                                  four_bit_code(a.type, nf4_normalize(second, scale)))
                  : 0;
  }
}

/// sums[g] = sum of group g of values, in the order of sum_group.
///   Launch    one CUDA block of 256 threads per group
template <class T>
__global__ void sum_groups_kernel(const T* values, int64_t count, double* sums) {
  __shared__ double v[kSumGroup];
  const int64_t i = int64_t{blockIdx.x} * kSumGroup + threadIdx.x;
  v[threadIdx.x] = i < count ? static_cast<double>(values[i]) : 0.0;
  const double sum = qlora::cuda::block_sum<kSumGroup>(v);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void divide_kernel(const double* sum, int64_t count, float* mean) {
  *mean = static_cast<float>(*sum / static_cast<double>(count));
}

}  // namespace

void cuda::dequantize_nf4(const Nf4DequantArgs& a) {
  if (a.count <= 0) return;
  const int64_t bytes = (a.begin + a.count + 1) / 2 - a.begin / 2;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_nf4_kernel<<<qlora::cuda::grid_size(bytes, kThreads), kThreads, 0, stream>>>(
        a, static_cast<decltype(type)>(a.out));
  });
  check(cudaGetLastError());
}

void cuda::quantize_nf4(const Nf4QuantArgs& a) {
  const int64_t blocks = (a.count + a.block_size - 1) / a.block_size;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.in_kind, [&](const auto* type) {
    quantize_nf4_kernel<<<qlora::cuda::grid_size(blocks, kBlocksPerLaunch), kThreads, 0, stream>>>(
        a, static_cast<decltype(type)>(a.in));
  });
  check(cudaGetLastError());
}

void cuda::mean(const MeanArgs& a) {
  const auto stream = static_cast<cudaStream_t>(a.stream);
  unsigned groups = qlora::cuda::grid_size(a.count, kSumGroup);
  double* sums = a.scratch;
  sum_groups_kernel<<<groups, kSumGroup, 0, stream>>>(a.values, a.count, sums);
  check(cudaGetLastError());
  while (groups > 1) {
    const unsigned fewer = qlora::cuda::grid_size(groups, kSumGroup);
    sum_groups_kernel<<<fewer, kSumGroup, 0, stream>>>(sums, int64_t{groups}, sums + groups);
    check(cudaGetLastError());
    sums += groups;
    groups = fewer;
  }
  divide_kernel<<<1, 1, 0, stream>>>(sums, a.count, a.mean);
  check(cudaGetLastError());
}

}  // namespace qlora::quant
