#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::model {

struct RmsNormArgs {
  const float* x;         // [T, C]
  const float* weight;    // [C]
  void* y;                // [T, C] of kind
  float* inverse_rms;     // [T], kept for the backward
  int64_t tokens, width;  // T, C
  float epsilon;
  FloatKind kind;          // of y and dy
  void* stream = nullptr;  // cudaStream_t
};

/// dx[c] = r·(w[c]·dy[c] − x[c]·r²·mean(w·dy·x)),  r = inverse_rms
struct RmsNormBackwardArgs {
  const void* dy;            // [T, C] of kind
  const float* x;            // [T, C]
  const float* weight;       // [C]
  const float* inverse_rms;  // [T]
  float* dx;                 // [T, C]
  int64_t tokens, width;
  FloatKind kind;
  void* stream = nullptr;
};

namespace cpu {
void rms_norm(const RmsNormArgs& a);
void rms_norm_backward(const RmsNormBackwardArgs& a);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void rms_norm(const RmsNormArgs& a);
void rms_norm_backward(const RmsNormBackwardArgs& a);
}  // namespace cuda

}  // namespace qlora::model
