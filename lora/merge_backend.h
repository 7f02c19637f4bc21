#pragma once

#include <cstdint>

namespace qlora::lora {

/// out[n, k] = fma(scale, d, w[n, k]),  d = fma(b[n, R-1], a[R-1, k], … fma(b[n, 0], a[0, k], 0)).
///   Numerics  bit-exact between back ends: the order of r is fixed, every step is fused
struct MergeArgs {
  const float* weight;  // [N, K]
  const float* a;       // [R, K]
  const float* b;       // [N, R]
  float* out;           // [N, K]
  int64_t rows, cols, rank;
  float scale;
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
void merge(const MergeArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void merge(const MergeArgs& args);
}  // namespace cuda

}  // namespace qlora::lora
