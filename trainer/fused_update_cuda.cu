#include <algorithm>
#include <cmath>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/blockwise8_math.h"
#include "quant/device_float.cuh"
#include "trainer/fused_update_backend.h"

namespace qlora::trainer {
namespace {

using qlora::cuda::check;
using qlora::cuda::kWarpSize;
using quant::bits_float;
using quant::DynamicTable;
using quant::float_bits;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kRun = 4;               // elements that a lane moves at once
constexpr int kRunsOfBlock = 2;       // 256 elements of a block, 32 lanes
constexpr int64_t kBlocksOfWarp = 4;  // that share a copy of the tables
constexpr int64_t kTableWords = sizeof(DynamicTable) / sizeof(float);
static_assert(kRunsOfBlock * kRun * kWarpSize == kAdamwBlock);

/// Four codes, of which `left` are there; the others are 0.
__device__ uint32_t load_codes(const uint8_t* from, int64_t left, bool wide) {
  if (wide && left >= kRun) return *reinterpret_cast<const uint32_t*>(from);
  uint32_t codes = 0;
  for (int k = 0; k < kRun && k < left; ++k) codes |= static_cast<uint32_t>(from[k]) << (8 * k);
  return codes;
}

__device__ void store_codes(uint32_t codes, int64_t left, bool wide, uint8_t* to) {
  if (wide && left >= kRun) {
    *reinterpret_cast<uint32_t*>(to) = codes;
    return;
  }
  for (int k = 0; k < kRun && k < left; ++k) to[k] = static_cast<uint8_t>(codes >> (8 * k));
}

__device__ bool is_at(const void* p, unsigned bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

__device__ uint8_t byte_of(uint32_t word, int k) {
  return static_cast<uint8_t>(word >> (8 * k));
}

/// The new moments of one block, in registers.
struct Moments {
  float mean[kRunsOfBlock][kRun];
  float square[kRunsOfBlock][kRun];
};

/// Decodes, updates parameters and moments; returns the moments' greatest magnitudes as bits.
__device__ void update_block(const Adamw8Tensor& t, int64_t block, const DynamicTable* tables,
                             const UpdateScalars& s, bool wide, Moments& m, uint32_t& mean_most,
                             uint32_t& square_most) {
  const float mean_absmax = t.mean_absmax[block], square_absmax = t.square_absmax[block];
#pragma unroll
  for (int h = 0; h < kRunsOfBlock; ++h) {
    const int64_t i = block * kAdamwBlock + (h * kWarpSize + threadIdx.x % kWarpSize) * kRun;
    const int64_t left = t.count - i;
    float p[kRun], g[kRun];
    quant::load_run(t.parameter + i, left, wide, p);
    quant::load_run(t.gradient + i, left, wide, g);
    const uint32_t mean_codes = load_codes(t.mean_codes + i, left, wide);
    const uint32_t square_codes = load_codes(t.square_codes + i, left, wide);
    for (int k = 0; k < kRun; ++k) {
      const float gradient = scaled_gradient(g[k], s);
      float mean = quant::blockwise8_value(tables[0], byte_of(mean_codes, k), mean_absmax);
      float square = quant::blockwise8_value(tables[1], byte_of(square_codes, k), square_absmax);
      mean = k < left ? adamw_mean(mean, gradient, s.step) : 0;  // the end raises no maximum
      square = k < left ? adamw_square(square, gradient, s.step) : 0;
      p[k] = adamw_parameter(p[k], mean, square, s.step);
      const uint32_t mean_bits = float_bits(mean) & ~quant::kFloatSignBit;
      const uint32_t square_bits = float_bits(square) & ~quant::kFloatSignBit;
      mean_most = mean_most > mean_bits ? mean_most : mean_bits;
      square_most = square_most > square_bits ? square_most : square_bits;
      m.mean[h][k] = mean;
      m.square[h][k] = square;
    }
    quant::store_run(p, left, wide, t.parameter + i);
  }
}

__device__ void encode_block(const Adamw8Tensor& t, int64_t block, const DynamicTable* tables,
                             bool wide, const Moments& m, quant::Blockwise8Scale mean_scale,
                             quant::Blockwise8Scale square_scale) {
#pragma unroll
  for (int h = 0; h < kRunsOfBlock; ++h) {
    const int64_t i = block * kAdamwBlock + (h * kWarpSize + threadIdx.x % kWarpSize) * kRun;
    uint32_t mean_codes = 0, square_codes = 0;
    for (int k = 0; k < kRun; ++k) {
      const uint8_t mean =
          quant::blockwise8_code(tables[0], m.mean[h][k], mean_scale, quant::SignRule::kKeep);
      const uint8_t square = quant::blockwise8_code(tables[1], m.square[h][k], square_scale,
                                                    quant::SignRule::kNearest);
      mean_codes |= static_cast<uint32_t>(mean) << (8 * k);
      square_codes |= static_cast<uint32_t>(square) << (8 * k);
    }
    store_codes(mean_codes, t.count - i, wide, t.mean_codes + i);
    store_codes(square_codes, t.count - i, wide, t.square_codes + i);
  }
}

/// One update of all tensors with 8-bit states.
///   Launch    a warp per block of 256 elements, up to four one after the other, eight warps a CUDA
///             block; the code tables lie in shared memory. Reads 10 B and writes 6 B an element
///   Numerics  bit-exact with cpu::fused_adamw8
__global__ void __launch_bounds__(kThreads, 3) fused_adamw8_kernel(FusedAdamw8Args a) {
  __shared__ DynamicTable tables[2];  // of means, of squares
  if (a.scalars->applied == 0) return;
  for (int64_t i = threadIdx.x; i < 2 * kTableWords; i += kThreads) {
    const DynamicTable& from =
        i < kTableWords ? quant::signed_dynamic_table() : quant::unsigned_dynamic_table();
    reinterpret_cast<float*>(tables)[i] =
        reinterpret_cast<const float*>(&from)[i < kTableWords ? i : i - kTableWords];
  }
  __syncthreads();
  const UpdateScalars scalars = *a.scalars;
  const int64_t step = int64_t{gridDim.x} * kWarps;
  for (int64_t at = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
       at < a.tensors.block_count; at += step) {
    const auto place = a.tensors.place(at);
    const Adamw8Tensor t = a.tensors.tensors[place.tensor];
    const bool wide = is_at(t.parameter, 16) && is_at(t.gradient, 16) && is_at(t.mean_codes, 4) &&
                      is_at(t.square_codes, 4);
    Moments moments;
    uint32_t mean_most = 0, square_most = 0;
    update_block(t, place.block, tables, scalars, wide, moments, mean_most, square_most);
    const auto mean_scale = quant::blockwise8_scale(bits_float(qlora::cuda::warp_max(mean_most)));
    const auto square_scale =
        quant::blockwise8_scale(bits_float(qlora::cuda::warp_max(square_most)));
    encode_block(t, place.block, tables, wide, moments, mean_scale, square_scale);
    __syncwarp();  // all lanes have read the old ones
    if (threadIdx.x % kWarpSize == 0) {
      t.mean_absmax[place.block] = mean_scale.absmax;
      t.square_absmax[place.block] = square_scale.absmax;
    }
  }
}

/// One update of all tensors with 32-bit states.
///   Launch    a CUDA block of 256 threads per block of 256 elements, one thread per element; reads
///             16 B and writes 12 B an element
///   Numerics  bit-exact with cpu::fused_adamw32
__global__ void __launch_bounds__(kThreads) fused_adamw32_kernel(FusedAdamw32Args a) {
  static_assert(kThreads == kAdamwBlock);
  if (a.scalars->applied == 0) return;
  const auto place = a.tensors.place(blockIdx.x);
  const Adamw32Tensor t = a.tensors.tensors[place.tensor];
  const int64_t i = place.block * kAdamwBlock + threadIdx.x;
  if (i >= t.count) return;
  const float g = scaled_gradient(t.gradient[i], *a.scalars);
  const AdamwStep step = a.scalars->step;
  const float mean = adamw_mean(t.mean[i], g, step), square = adamw_square(t.square[i], g, step);
  t.mean[i] = mean;
  t.square[i] = square;
  t.parameter[i] = adamw_parameter(t.parameter[i], mean, square, step);
}

}  // namespace

void cuda::fused_adamw8(const FusedAdamw8Args& a) {
  if (a.tensors.block_count <= 0) return;
  const unsigned blocks = qlora::cuda::grid_size(a.tensors.block_count, kWarps * kBlocksOfWarp);
  fused_adamw8_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(a.stream)>>>(a);
  check(cudaGetLastError());
}

void cuda::fused_adamw32(const FusedAdamw32Args& a) {
  if (a.tensors.block_count <= 0) return;
  const unsigned blocks = qlora::cuda::grid_size(a.tensors.block_count, 1);
  fused_adamw32_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(a.stream)>>>(a);
  check(cudaGetLastError());
}

}  // namespace qlora::trainer
