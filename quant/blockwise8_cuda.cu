#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/blockwise8_backend.h"
#include "quant/cuda_lowest.cuh"
#include "quant/runs.cuh"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;

/// Codes and absmax of the blocks.
///   Launch    one CUDA block of 256 threads per block of values; threads stride over the elements
///   Numerics  bit-exact with cpu::quantize_blockwise8
template <class In>
__global__ void quantize_blockwise8_kernel(Blockwise8QuantArgs a, const In* in) {
  const int64_t block = blockIdx.x;
  const int64_t begin = block * a.block_size;
  const int64_t left = a.count - begin;
  const int64_t size = left < a.block_size ? left : a.block_size;

  uint32_t most = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    const uint32_t bits = float_bits(to_float(in[begin + i])) & ~kFloatSignBit;
    most = most > bits ? most : bits;
  }
  most = qlora::cuda::block_max<kThreads>(most);
  const bool is_finite = is_finite_bits(most);
  const float absmax = is_finite ? bits_float(most) : 0.0f;
  if (threadIdx.x == 0) {
    a.absmax[block] = absmax;
    if (!is_finite) lower_to(a.first_bad_block, block);
  }
  const DynamicTable& table = dynamic_table(a.map);
  const Blockwise8Scale scale = blockwise8_scale(absmax);
  for (int64_t i = threadIdx.x; i < size; i += kThreads) {
    a.codes[begin + i] = blockwise8_code(table, to_float(in[begin + i]), scale, a.sign_rule);
  }
}

/// out[i] = level(codes[i]) * absmax[i / block_size]
///   Launch    256 threads per 8,192 elements: a thread takes four runs of eight, 2,048 apart
///   Requires  wide: block_size a multiple of 8, codes aligned to 8 B, out to 16 B
///   Numerics  bit-exact with cpu::dequantize_blockwise8
template <class Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_blockwise8_kernel(Blockwise8DequantArgs a, Quotient blocks, Out* out, bool wide) {
  __shared__ float levels[256];
  static_assert(kThreads == 256);
  levels[threadIdx.x] = dynamic_table(a.map).levels[threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRunsOfThread; ++r) {
    const int64_t i = kRun * ((int64_t{blockIdx.x} * kRunsOfThread + r) * kThreads + threadIdx.x);
    const int64_t left = a.count - i;
    if (left <= 0) return;
    float v[kRun] = {};
    if (wide && left >= kRun) {
      const auto words = load_words<2>(a.codes + i);
      const float absmax = a.absmax[blocks.of(i)];
      for (int k = 0; k < kRun; ++k) {
        v[k] = levels[(words.at[k / 4] >> (8 * (k % 4))) & 255u] * absmax;
      }
    } else {
      for (int k = 0; k < kRun && k < left; ++k) {
        v[k] = levels[a.codes[i + k]] * a.absmax[blocks.of(i + k)];
      }
    }
    store_run(v, left, wide, out + i);
  }
}

}  // namespace

void cuda::quantize_blockwise8(const Blockwise8QuantArgs& a) {
  const unsigned blocks = qlora::cuda::grid_size(a.count, a.block_size);
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.in_kind, [&](const auto* type) {
    quantize_blockwise8_kernel<<<blocks, kThreads, 0, stream>>>(a,
                                                                static_cast<decltype(type)>(a.in));
  });
  check(cudaGetLastError());
}

void cuda::dequantize_blockwise8(const Blockwise8DequantArgs& a) {
  if (a.count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const bool wide = a.block_size % kRun == 0 && is_aligned(a.codes, kRun) && is_aligned(a.out, 16);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_blockwise8_kernel<<<qlora::cuda::grid_size(a.count, kThreads * kRun * kRunsOfThread),
                                   kThreads, 0, stream>>>(a, Quotient(a.block_size),
                                                          static_cast<decltype(type)>(a.out), wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::quant
