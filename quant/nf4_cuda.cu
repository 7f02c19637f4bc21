#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/cuda_lowest.cuh"
#include "quant/nf4_backend.h"
#include "quant/runs.cuh"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int64_t kElementsOfBlock = kThreads * kRun * kRunsOfThread;
constexpr int kBlocksPerLaunch =
    kThreads / qlora::cuda::kWarpSize;  // one warp per block of weights

/// out[i - begin] = level(code i) * scale(i / block_size)
///   Launch    256 threads per 8,192 elements: a thread takes four runs of eight, 2,048 apart
///   Requires  wide: begin and block_size multiples of 8, codes aligned to 4 B, out to 16 B
///   Numerics  bit-exact with cpu::dequantize_nf4
template <class Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_nf4_kernel(Nf4DequantArgs a, Quotient blocks, Out* out, bool wide) {
  __shared__ LevelTable table;
  table.fill(a.type);
  const int64_t end = a.begin + a.count;
  // Runs start at multiples of eight elements of the matrix.
  const int64_t first =
      a.begin / kRun * kRun + kRun * (int64_t{blockIdx.x} * kRunsOfThread * kThreads + threadIdx.x);
  uint32_t words[kRunsOfThread];
  float scales[kRunsOfThread];
#pragma unroll
  for (int r = 0; r < kRunsOfThread; ++r) {
    const int64_t i = first + r * kRun * kThreads;
    if (!wide || i + kRun > end) continue;
    words[r] = *reinterpret_cast<const uint32_t*>(a.codes + i / 2);
    scales[r] = nf4_scale(a.scales, blocks.of(i));
  }
#pragma unroll
  for (int r = 0; r < kRunsOfThread; ++r) {
    const int64_t i = first + r * kRun * kThreads;
    if (wide && i + kRun <= end) {
      float v[kRun];
      table.decode(words[r], v);
      for (float& x : v) x *= scales[r];
      store_run(v, kRun, true, out + (i - a.begin));
      continue;
    }
    const int64_t last = i + kRun < end ? i + kRun : end;
    for (int64_t e = i > a.begin ? i : a.begin; e < last; ++e) {
      const float level = table.levels[four_bit_at(a.codes, e)];
      narrow(level * nf4_scale(a.scales, blocks.of(e)), out + (e - a.begin));
    }
  }
}

/// What rounds to a 4-bit type, in shared memory.
struct MidpointTable {
  float midpoints[16];  // the last is not used
  uint32_t codes[16];   // of ranks

  /// All threads of the block take part.
  __device__ void fill(FourBitType type) {
    const auto i = static_cast<int>(threadIdx.x);
    if (i < 16) {
      midpoints[i] = i < 15 ? four_bit_midpoint(type, i) : 0;
      codes[i] = four_bit_code_of_rank(type, i);
    }
    __syncthreads();
  }
  /// four_bit_code(x): midpoints rise, so that the number of those below x is found in four steps.
  __device__ uint8_t code(float x) const {
    int rank = 0;
    for (int step = 8; step > 0; step /= 2) rank += x > midpoints[rank + step - 1] ? step : 0;
    return static_cast<uint8_t>(codes[rank]);
  }
};

/// Codes and absmax of the blocks.
///   Launch    one warp per block of weights, 8 warps per CUDA block; lanes stride over the
///             elements
///   Numerics  bit-exact with cpu::quantize_nf4: a maximum does not depend on the order
template <class In>
__global__ void quantize_nf4_kernel(Nf4QuantArgs a, const In* in) {
  __shared__ MidpointTable table;
  table.fill(a.type);
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
    a.codes[begin / 2 + j] = is_finite ? four_bit_pack(table.code(nf4_normalize(first, scale)),
                                                       table.code(nf4_normalize(second, scale)))
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
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const int64_t elements = a.begin % kRun + a.count;
  const bool wide = a.begin % kRun == 0 && a.block_size % kRun == 0 && is_aligned(a.codes, 4) &&
                    is_aligned(a.out, 16);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_nf4_kernel<<<qlora::cuda::grid_size(elements, kElementsOfBlock), kThreads, 0,
                            stream>>>(a, Quotient(a.block_size), static_cast<decltype(type)>(a.out),
                                      wide);
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
