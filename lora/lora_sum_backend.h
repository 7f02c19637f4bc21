#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::lora {

/// y[t, n] = base[t, n] + delta[t, n] + bias[n], summed in FP32, rounded once.
struct LoraSumArgs {
  const void* base;   // [T, N] of in_kind
  const void* delta;  // [T, N] of in_kind, or null
  const float* bias;  // [N], or null
  void* y;            // [T, N] of out_kind; may be base where the kinds are alike
  int64_t tokens, width;
  FloatKind in_kind, out_kind;
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
void lora_sum(const LoraSumArgs& a);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void lora_sum(const LoraSumArgs& a);
}  // namespace cuda

}  // namespace qlora::lora
