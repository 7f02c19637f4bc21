#include <cmath>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/sum.cuh"
#include "model/rms_norm_backend.h"
#include "quant/device_float.cuh"

namespace qlora::model {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::block_sum_all;
using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 4;  // numbers a thread moves at once

/// y[t, c] = w[c]·(x[t, c]·r),  r = 1 / sqrt(mean(x²) + ε)
///   Launch    one block of 256 threads per token; reads 4 B (the second time from the cache) and
///             writes sizeof(T) B a number
///   Requires  wide: rows of x, weight and y start at multiples of 16 B (8 B for 16-bit y)
///   Numerics  bounded: docs/numerics.md, model
template <class Out>
__global__ void rms_norm_kernel(RmsNormArgs a, Out* out, bool wide) {
  const int64_t t = blockIdx.x;
  const float* x = a.x + t * a.width;
  float sum = 0;
  for (int64_t i = kRun * threadIdx.x; i < a.width; i += kRun * kThreads) {
    float v[kRun];
    load_run(x + i, a.width - i, wide, v);
    for (int k = 0; k < kRun; ++k) sum = std::fma(v[k], v[k], sum);
  }
  sum = block_sum_all<kThreads>(sum);
  const float r = 1.0f / std::sqrt(sum / static_cast<float>(a.width) + a.epsilon);
  if (threadIdx.x == 0) a.inverse_rms[t] = r;
  for (int64_t i = kRun * threadIdx.x; i < a.width; i += kRun * kThreads) {
    float v[kRun], w[kRun];
    load_run(x + i, a.width - i, wide, v);
    load_run(a.weight + i, a.width - i, wide, w);
    for (int k = 0; k < kRun; ++k) v[k] = w[k] * (v[k] * r);
    store_run(v, a.width - i, wide, out + t * a.width + i);
  }
}

/// dx[c] = r·(w[c]·dy[c] − x[c]·r²·mean(w·dy·x))
///   Launch    as rms_norm_kernel
///   Numerics  bounded: docs/numerics.md, model
template <class In>
__global__ void rms_norm_backward_kernel(RmsNormBackwardArgs a, const In* dy, bool wide) {
  const int64_t t = blockIdx.x, row = t * a.width;
  float dot = 0;
  for (int64_t i = kRun * threadIdx.x; i < a.width; i += kRun * kThreads) {
    float x[kRun], w[kRun], g[kRun];
    load_run(a.x + row + i, a.width - i, wide, x);
    load_run(a.weight + i, a.width - i, wide, w);
    load_run(dy + row + i, a.width - i, wide, g);
    for (int k = 0; k < kRun; ++k) dot = std::fma(w[k] * g[k], x[k], dot);
  }
  dot = block_sum_all<kThreads>(dot);
  const float r = a.inverse_rms[t];
  const float pull = r * r * dot / static_cast<float>(a.width);
  for (int64_t i = kRun * threadIdx.x; i < a.width; i += kRun * kThreads) {
    float x[kRun], w[kRun], g[kRun];
    load_run(a.x + row + i, a.width - i, wide, x);
    load_run(a.weight + i, a.width - i, wide, w);
    load_run(dy + row + i, a.width - i, wide, g);
    for (int k = 0; k < kRun; ++k) x[k] = r * (w[k] * g[k] - x[k] * pull);
    store_run(x, a.width - i, wide, a.dx + row + i);
  }
}

}  // namespace

void cuda::rms_norm(const RmsNormArgs& a) {
  if (a.tokens <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.kind, [&](auto* type) {
    const auto y = static_cast<decltype(type)>(a.y);
    const bool wide = rows_are_aligned<kRun>(a.x, a.width) && is_aligned(a.weight, 16) &&
                      rows_are_aligned<kRun>(y, a.width);
    rms_norm_kernel<<<qlora::cuda::grid_size(a.tokens, 1), kThreads, 0, stream>>>(a, y, wide);
  });
  check(cudaGetLastError());
}

void cuda::rms_norm_backward(const RmsNormBackwardArgs& a) {
  if (a.tokens <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.kind, [&](const auto* type) {
    const auto dy = static_cast<decltype(type)>(a.dy);
    const bool wide = rows_are_aligned<kRun>(a.x, a.width) && is_aligned(a.weight, 16) &&
                      rows_are_aligned<kRun>(dy, a.width) && is_aligned(a.dx, 16);
    rms_norm_backward_kernel<<<qlora::cuda::grid_size(a.tokens, 1), kThreads, 0, stream>>>(a, dy,
                                                                                           wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::model
