#include <cmath>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "lora/merge_backend.h"
#include "quant/device_float.cuh"

namespace qlora::lora {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 4;  // columns a thread takes

/// out[n, k] = fma(scale, d, w[n, k]),  d = fma(b[n, R-1], a[R-1, k], … fma(b[n, 0], a[0, k], 0))
///   Launch    one thread per 4 columns of a row, 256 per block; A comes from the cache: 8 B a
///             number from memory
///   Requires  wide: rows of weight, a and out start at multiples of 16 B
///   Numerics  bit-exact with cpu::merge
__global__ void merge_kernel(MergeArgs m, bool wide) {
  const int64_t runs = (m.cols + kRun - 1) / kRun;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= m.rows * runs) return;
  const int64_t n = thread / runs, k = thread % runs * kRun;
  float sum[kRun] = {};
  for (int64_t r = 0; r < m.rank; ++r) {
    float a[kRun];
    load_run(m.a + r * m.cols + k, m.cols - k, wide, a);
    const float b = m.b[n * m.rank + r];
    for (int i = 0; i < kRun; ++i) sum[i] = std::fma(b, a[i], sum[i]);
  }
  float w[kRun];
  load_run(m.weight + n * m.cols + k, m.cols - k, wide, w);
  for (int i = 0; i < kRun; ++i) sum[i] = std::fma(m.scale, sum[i], w[i]);
  store_run(sum, m.cols - k, wide, m.out + n * m.cols + k);
}

}  // namespace

void cuda::merge(const MergeArgs& m) {
  const int64_t count = m.rows * ((m.cols + kRun - 1) / kRun);
  if (count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(m.stream);
  const bool wide =
      rows_are_aligned<kRun>(m.weight, m.cols) && is_aligned(m.a, 16) && is_aligned(m.out, 16);
  merge_kernel<<<qlora::cuda::grid_size(count, kThreads), kThreads, 0, stream>>>(m, wide);
  check(cudaGetLastError());
}

}  // namespace qlora::lora
