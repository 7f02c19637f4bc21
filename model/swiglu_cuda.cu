#include <cmath>
#include <type_traits>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "model/swiglu_backend.h"
#include "quant/device_float.cuh"

namespace qlora::model {
namespace {

using namespace quant;  // NOLINT: numbers in device memory
using qlora::cuda::check;

constexpr int kThreads = 256;

/// Numbers of a type that a thread moves at once: 16 bytes.
template <class T>
inline constexpr int kRun = 16 / int{sizeof(T)};

// The clamp keeps exp finite; beyond it the sigmoid is 0 or 1 in FP32 anyway.
__device__ float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-(x < -87.0f ? -87.0f : x)));
}

/// An activation and its slope.
struct Activated {
  float value, slope;
};

/// x·s and s·(1 + x·(1 − s)), s = sigmoid(x); or GELU with tanh (Hendrycks and Gimpel,
/// arXiv:1606.08415, section 2): x·(1 + t)/2, t = tanh(√(2/π)·(x + 0.044715·x³))
__device__ Activated activated(float x, io::Activation activation) {
  if (activation == io::Activation::kSilu) {
    const float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
  constexpr float kRoot = 0.7978845608028654f, kCube = 0.044715f;
  const float square = x * x, t = std::tanh(kRoot * (x * (1.0f + kCube * square)));
  const float left = 0.5f * (1.0f + t);
  const float bell = 0.5f * x * (1.0f - t * t);
  return {x * left, left + bell * (kRoot * (1.0f + 3 * kCube * square))};
}

/// y = activation(gate)·up
///   Launch    one thread per 16 bytes of each array, 256 per block
///   Requires  wide: all arrays start at multiples of 16 B
///   Numerics  bounded: docs/numerics.md, model
template <class T>
__global__ void swiglu_kernel(SwigluArgs a, const T* gate, const T* up, T* y, bool wide) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kRun<T>;
  if (i >= a.count) return;
  float g[kRun<T>], u[kRun<T>];
  load_run(gate + i, a.count - i, wide, g);
  load_run(up + i, a.count - i, wide, u);
  for (int k = 0; k < kRun<T>; ++k) g[k] = activated(g[k], a.activation).value * u[k];
  store_run(g, a.count - i, wide, y + i);
}

/// dgate = dy·up·activation'(gate),  dup = dy·activation(gate)
///   Launch    as swiglu_kernel
///   Numerics  bounded: docs/numerics.md, model
template <class T>
__global__ void swiglu_backward_kernel(SwigluBackwardArgs a, const T* dy, const T* gate,
                                       const T* up, T* dgate, T* dup, bool wide) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kRun<T>;
  if (i >= a.count) return;
  float v[kRun<T>], g[kRun<T>], u[kRun<T>];
  load_run(dy + i, a.count - i, wide, v);
  load_run(gate + i, a.count - i, wide, g);
  load_run(up + i, a.count - i, wide, u);
  for (int k = 0; k < kRun<T>; ++k) {
    const Activated gate_of = activated(g[k], a.activation);
    u[k] = v[k] * u[k] * gate_of.slope;
    g[k] = v[k] * gate_of.value;
  }
  store_run(u, a.count - i, wide, dgate + i);
  store_run(g, a.count - i, wide, dup + i);
}

}  // namespace

void cuda::swiglu(const SwigluArgs& a) {
  if (a.count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const bool wide = is_aligned(a.gate, 16) && is_aligned(a.up, 16) && is_aligned(a.y, 16);
  with_kind(a.kind, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const unsigned blocks = qlora::cuda::grid_size(a.count, kThreads * kRun<T>);
    swiglu_kernel<T><<<blocks, kThreads, 0, stream>>>(
        a, static_cast<const T*>(a.gate), static_cast<const T*>(a.up), static_cast<T*>(a.y), wide);
  });
  check(cudaGetLastError());
}

void cuda::swiglu_backward(const SwigluBackwardArgs& a) {
  if (a.count <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const bool wide = is_aligned(a.dy, 16) && is_aligned(a.gate, 16) && is_aligned(a.up, 16) &&
                    is_aligned(a.dgate, 16) && is_aligned(a.dup, 16);
  with_kind(a.kind, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const unsigned blocks = qlora::cuda::grid_size(a.count, kThreads * kRun<T>);
    swiglu_backward_kernel<T><<<blocks, kThreads, 0, stream>>>(
        a, static_cast<const T*>(a.dy), static_cast<const T*>(a.gate), static_cast<const T*>(a.up),
        static_cast<T*>(a.dgate), static_cast<T*>(a.dup), wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::model
