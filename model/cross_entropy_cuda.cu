#include <cmath>
#include <type_traits>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/sum.cuh"
#include "model/cross_entropy_backend.h"
#include "quant/device_float.cuh"

namespace qlora::model {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::check;
using qlora::cuda::kWarpSize;

constexpr int kThreads = 512;
constexpr int kRun = 8;  // logits a thread takes at once

/// Greatest number so far and the sum of exp(number − greatest).
struct Softmax {
  float top;
  float sum;

  __device__ void add(Softmax other) {
    const float most = top > other.top ? top : other.top;
    if (most == -INFINITY) {  // both sums are 0 or NaN; inf − inf would always be NaN
      sum += other.sum;
      return;
    }
    sum = sum * std::exp(top - most) + other.sum * std::exp(other.top - most);
    top = most;
  }
};

/// A logit as the loss sees it.
__device__ float capped(float x, float softcap) {
  return softcap > 0 ? softcap * std::tanh(x / softcap) : x;
}

/// d capped / d x, from the capped logit.
__device__ float cap_slope(float z, float softcap) {
  return softcap > 0 ? 1.0f - (z / softcap) * (z / softcap) : 1.0f;
}

/// Softmax of a row, in all threads of the block.
template <class T>
__device__ Softmax row_softmax(const T* x, int64_t n, float softcap, bool wide) {
  __shared__ Softmax of_warps[kThreads / kWarpSize];
  Softmax all{-INFINITY, 0};
  for (int64_t i = kRun * threadIdx.x; i < n; i += kRun * kThreads) {
    float v[kRun];
    load_run(x + i, n - i, wide, v);
    for (float& logit : v) logit = capped(logit, softcap);
    Softmax run{-INFINITY, 0};
    for (int k = 0; k < kRun; ++k) {
      if (i + k < n && v[k] > run.top) run.top = v[k];
    }
    for (int k = 0; k < kRun; ++k) {
      if (i + k < n && !(v[k] == -INFINITY)) run.sum += std::exp(v[k] - run.top);
    }
    all.add(run);
  }
  for (int stride = kWarpSize / 2; stride > 0; stride /= 2) {
    const Softmax other{__shfl_xor_sync(0xFFFFFFFFu, all.top, stride),
                        __shfl_xor_sync(0xFFFFFFFFu, all.sum, stride)};
    all.add(other);
  }
  const int thread = static_cast<int>(threadIdx.x);
  if (thread % kWarpSize == 0) of_warps[thread / kWarpSize] = all;
  __syncthreads();
  all = of_warps[0];
  for (int w = 1; w < kThreads / kWarpSize; ++w) all.add(of_warps[w]);
  return all;
}

/// nll[t] = log(sum(exp(z[t]))) − z[t, target[t]], z the logits or softcap·tanh(logits / softcap);
/// with want_gradient the logits become gradient_scale·dz·(softmax(z) − onehot(target)).
///   Shapes    logits [T, V] T, targets [T] i64, nll [T] f32
///   Launch    one block of 512 threads per token; reads V logits twice (greatest and sum in one
///             pass), writes them once
///   Requires  wide: rows start at multiples of 16 B
///   Numerics  bounded: docs/numerics.md, model
///   Source    one pass: Milakov and Gimelshein, arXiv:1805.02867
template <class T>
__global__ void cross_entropy_kernel(CrossEntropyArgs a, T* logits, bool wide) {
  const int64_t t = blockIdx.x, n = a.vocabulary;
  T* x = logits + t * n;
  const Softmax all = row_softmax(x, n, a.softcap, wide);
  const int64_t target = a.targets[t];
  const float log_sum = std::log(all.sum);
  // The maximum is taken off both first: what is left is small and exact.
  if (threadIdx.x == 0) a.nll[t] = log_sum + (all.top - capped(widened(x[target]), a.softcap));
  if (!a.want_gradient) return;
  __syncthreads();  // the target's logit is read before it is replaced
  const float shift = all.top + log_sum;
  for (int64_t i = kRun * threadIdx.x; i < n; i += kRun * kThreads) {
    float v[kRun];
    load_run(x + i, n - i, wide, v);
    for (int k = 0; k < kRun; ++k) {
      const float z = capped(v[k], a.softcap), p = std::exp(z - shift);
      v[k] = (i + k == target ? p - 1.0f : p) * cap_slope(z, a.softcap) * a.gradient_scale;
    }
    store_run(v, n - i, wide, x + i);
  }
}

}  // namespace

void cuda::cross_entropy(const CrossEntropyArgs& a) {
  if (a.tokens <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.kind, [&](auto* type) {
    const auto logits = static_cast<decltype(type)>(a.logits);
    const bool wide = rows_are_aligned<kRun>(logits, a.vocabulary);
    cross_entropy_kernel<<<qlora::cuda::grid_size(a.tokens, 1), kThreads, 0, stream>>>(a, logits,
                                                                                       wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::model
