#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/affine_math.h"
#include "quant/cuda_lowest.cuh"
#include "quant/device_float.cuh"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 4;  // elements a thread takes at once

/// Codes and values (either may be null) of a row on its scale; all threads of the block.
__device__ void round_row(const Fp8QuantArgs& a, int64_t row, float scale, bool wide) {
  const int64_t begin = row * a.cols;
  for (int64_t i = kRun * threadIdx.x; i < a.cols; i += kRun * kThreads) {
    float w[kRun];
    uint32_t codes = 0;
    load_run(a.weight + begin + i, a.cols - i, wide, w);
    for (int k = 0; k < kRun; ++k) {
      const uint8_t code = float_to_fp8(w[k] / scale);
      codes |= static_cast<uint32_t>(code) << (8 * k);
      w[k] = fp8_to_float(code) * scale;
    }
    if (a.codes != nullptr) {
      uint8_t* const to = a.codes + begin + i;
      if (wide) {
        *reinterpret_cast<uint32_t*>(to) = codes;
      } else {
        for (int k = 0; k < kRun && i + k < a.cols; ++k) {
          to[k] = static_cast<uint8_t>(codes >> (8 * k));
        }
      }
    }
    if (a.values != nullptr) store_run(w, a.cols - i, wide, a.values + begin + i);
  }
}

/// Scale of each row, and the row rounded to it; or, for one scale, its greatest magnitude as bits
/// in scales[0].
///   Launch    one block of 256 threads per row; reads 4 B (the second time from the cache), writes
///             1 B of codes, 4 B of values an element
///   Requires  wide: cols a multiple of 4, arrays aligned to 16 B (codes 4 B); scales[0] is 0
///             before, where the matrix has one scale
///   Numerics  bit-exact with cpu::quantize_fp8: a maximum does not depend on the order
__global__ void fp8_rows_kernel(Fp8QuantArgs a, bool wide) {
  const int64_t row = blockIdx.x;
  uint32_t most = 0;
  for (int64_t i = kRun * threadIdx.x; i < a.cols; i += kRun * kThreads) {
    float w[kRun];
    load_run(a.weight + row * a.cols + i, a.cols - i, wide, w);
    for (int k = 0; k < kRun; ++k) {
      const uint32_t magnitude = float_bits(w[k]) & ~kFloatSignBit;
      most = most > magnitude ? most : magnitude;
    }
  }
  most = qlora::cuda::block_max<kThreads>(most);
  const float scale = fp8_scale(most, a.scale_type);
  if (!is_finite_bits(float_bits(scale))) {
    if (threadIdx.x == 0) lower_to(a.first_bad_row, row);
    return;
  }
  if (a.scale_per_row) {
    if (threadIdx.x == 0) a.scales[row] = scale;
    round_row(a, row, scale, wide);
  } else if (threadIdx.x == 0) {
    atomicMax(reinterpret_cast<unsigned*>(a.scales), most);
  }
}

/// scales[0]: from the greatest magnitude of the matrix to its scale.
__global__ void fp8_one_scale_kernel(Fp8QuantArgs a) {
  a.scales[0] = fp8_scale(float_bits(a.scales[0]), a.scale_type);
}

/// The rows of a matrix that has one scale, rounded.
///   Launch    as fp8_rows_kernel
__global__ void fp8_round_kernel(Fp8QuantArgs a, bool wide) {
  round_row(a, blockIdx.x, a.scales[0], wide);
}

}  // namespace

void cuda::quantize_fp8(const Fp8QuantArgs& a) {
  if (a.rows * a.cols <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const unsigned rows = qlora::cuda::grid_size(a.rows, 1);
  const bool wide = rows_are_aligned<kRun>(a.weight, a.cols) && is_aligned(a.values, 16) &&
                    is_aligned(a.codes, 4);
  if (!a.scale_per_row) check(cudaMemsetAsync(a.scales, 0, sizeof(float), stream));
  fp8_rows_kernel<<<rows, kThreads, 0, stream>>>(a, wide);
  check(cudaGetLastError());
  if (a.scale_per_row) return;
  fp8_one_scale_kernel<<<1, 1, 0, stream>>>(a);
  check(cudaGetLastError());
  if (a.codes == nullptr && a.values == nullptr) return;
  fp8_round_kernel<<<rows, kThreads, 0, stream>>>(a, wide);
  check(cudaGetLastError());
}

}  // namespace qlora::quant
