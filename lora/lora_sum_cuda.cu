#include <type_traits>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "lora/lora_sum_backend.h"
#include "quant/device_float.cuh"

namespace qlora::lora {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 8;  // numbers a thread moves at once

/// y[t, n] = base[t, n] + delta[t, n] + bias[n]
///   Launch    one thread per 8 numbers of a row, 256 per block; reads 2 sizeof(In) B and writes
///             sizeof(Out) B a number
///   Requires  wide: rows start at multiples of 16 B
///   Numerics  bit-exact with cpu::lora_sum (a NaN's payload aside): FP32 sums, rounded once
template <class In, class Out>
__global__ void lora_sum_kernel(LoraSumArgs a, const In* base, const In* delta, Out* y, bool wide) {
  const int64_t runs = (a.width + kRun - 1) / kRun;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= a.tokens * runs) return;
  const int64_t i = thread % runs * kRun, at = thread / runs * a.width + i;
  float sum[kRun], next[kRun];
  load_run(base + at, a.width - i, wide, sum);
  if (delta != nullptr) {
    load_run(delta + at, a.width - i, wide, next);
    for (int k = 0; k < kRun; ++k) sum[k] += next[k];
  }
  if (a.bias != nullptr) {
    load_run(a.bias + i, a.width - i, wide, next);
    for (int k = 0; k < kRun; ++k) sum[k] += next[k];
  }
  store_run(sum, a.width - i, wide, y + at);
}

}  // namespace

void cuda::lora_sum(const LoraSumArgs& a) {
  const int64_t count = a.tokens * ((a.width + kRun - 1) / kRun);
  if (count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.in_kind, [&](auto* in_type) {
    with_kind(a.out_kind, [&](auto* out_type) {
      using In = std::remove_pointer_t<decltype(in_type)>;
      using Out = std::remove_pointer_t<decltype(out_type)>;
      const auto base = static_cast<const In*>(a.base);
      const auto delta = static_cast<const In*>(a.delta);
      const auto y = static_cast<Out*>(a.y);
      const bool wide = rows_are_aligned<kRun>(base, a.width) && is_aligned(delta, 16) &&
                        is_aligned(a.bias, 16) && is_aligned(y, 16);
      lora_sum_kernel<<<qlora::cuda::grid_size(count, kThreads), kThreads, 0, stream>>>(
          a, base, delta, y, wide);
    });
  });
  check(cudaGetLastError());
}

}  // namespace qlora::lora
