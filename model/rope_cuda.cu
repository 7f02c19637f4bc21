#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "model/rope_backend.h"
#include "quant/device_float.cuh"

namespace qlora::model {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 4;  // numbers of either half that a thread takes

__host__ __device__ int64_t runs_of(int64_t count) {
  return (count + kRun - 1) / kRun;
}

/// Threads for one head: those that turn a run of pairs, and those that copy.
__host__ __device__ int64_t runs_of_head(const RopeArgs& a) {
  return runs_of(a.rotary_dim / 2) + runs_of(a.head_dim - a.rotary_dim);
}

/// y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin for the halves of what turns of every head; the rest
/// is copied; y may be x.
///   Launch    one thread per 4 numbers of either half or of the rest, 256 per block; reads and
///             writes 2 sizeof(T) B a pair, the angles of a token come from the cache
///   Requires  wide: halves and the rest start at multiples of 16 B (8 B for 16-bit x and y)
///   Numerics  bit-exact with cpu::rope (a NaN's payload aside): each operation rounds once
template <class T>
__global__ void rope_kernel(RopeArgs a, const T* in, T* out, bool wide) {
  const int64_t half = a.rotary_dim / 2, turned = runs_of(half), runs = runs_of_head(a);
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= a.tokens * a.heads * runs) return;
  const int64_t head = thread / runs, run = thread % runs, i = run * kRun;  // of all tokens' heads
  if (run >= turned) {
    const int64_t first = a.rotary_dim + (run - turned) * kRun, rest = head * a.head_dim + first;
    float x[kRun];
    load_run(in + rest, a.head_dim - first, wide, x);
    store_run(x, a.head_dim - first, wide, out + rest);
    return;
  }
  const int64_t angle = head / a.heads * half + i, at = head * a.head_dim + i;
  float x1[kRun], x2[kRun], c[kRun], s[kRun];
  load_run(in + at, half - i, wide, x1);
  load_run(in + at + half, half - i, wide, x2);
  load_run(a.cos + angle, half - i, wide, c);
  load_run(a.sin + angle, half - i, wide, s);
  for (int k = 0; k < kRun; ++k) {
    const float sine = s[k] * a.sin_sign;
    const float first = x1[k] * c[k] - x2[k] * sine;
    x2[k] = x2[k] * c[k] + x1[k] * sine;
    x1[k] = first;
  }
  store_run(x1, half - i, wide, out + at);
  store_run(x2, half - i, wide, out + at + half);
}

}  // namespace

void cuda::rope(const RopeArgs& a) {
  const int64_t half = a.rotary_dim / 2, count = a.tokens * a.heads * runs_of_head(a);
  if (count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.kind, [&](auto* type) {
    const auto x = static_cast<const std::remove_pointer_t<decltype(type)>*>(a.x);
    const auto y = static_cast<decltype(type)>(a.y);
    const bool wide = rows_are_aligned<kRun>(x, half) && rows_are_aligned<kRun>(y, half) &&
                      a.head_dim % kRun == 0 && a.rotary_dim % kRun == 0 && is_aligned(a.cos, 16) &&
                      is_aligned(a.sin, 16);
    rope_kernel<<<qlora::cuda::grid_size(count, kThreads), kThreads, 0, stream>>>(a, x, y, wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::model
