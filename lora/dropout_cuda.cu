#include <type_traits>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/rng.h"
#include "lora/dropout_backend.h"
#include "quant/device_float.cuh"

namespace qlora::lora {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::check;

constexpr int kThreads = 256;
constexpr int kRun = 8;  // 16-bit draws of one philox4x32

/// y[i] = draw(i) < threshold ? 0 : x[i]·scale
///   Launch    one thread per 8 numbers, which share a call of philox4x32; 256 per block
///   Requires  wide: x and y start at multiples of 16 B
///   Numerics  bit-exact with cpu::dropout (a NaN's payload aside)
template <class T>
__global__ void dropout_kernel(DropoutArgs a, const T* x, T* y, uint32_t threshold, float scale,
                               bool wide) {
  const int64_t block = int64_t{blockIdx.x} * kThreads + threadIdx.x, i = block * kRun;
  if (i >= a.count) return;
  const PhiloxBlock words = philox4x32(static_cast<uint64_t>(block), a.stream, a.seed);
  float v[kRun];
  load_run(x + i, a.count - i, wide, v);
  for (int k = 0; k < kRun; ++k) {
    const uint32_t draw = words.word[k / 2] >> (k % 2 * 16) & 0xFFFFu;
    v[k] = draw < threshold ? 0.0f : v[k] * scale;  // a dropped infinity is 0, not NaN
  }
  store_run(v, a.count - i, wide, y + i);
}

}  // namespace

void cuda::dropout(const DropoutArgs& a) {
  if (a.count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.device_stream);
  const uint32_t threshold = dropout_threshold(a.probability);
  const float scale = dropout_scale(a.probability);
  const bool wide = is_aligned(a.x, 16) && is_aligned(a.y, 16);
  with_kind(a.kind, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    dropout_kernel<<<qlora::cuda::grid_size(a.count, kThreads * kRun), kThreads, 0, stream>>>(
        a, static_cast<const T*>(a.x), static_cast<T*>(a.y), threshold, scale, wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::lora
