#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::model {

/// y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin for the halves of the first rotary_dim numbers of
/// every head; the others are copied.
struct RopeArgs {
  const void* x;     // [T, heads, D] of kind
  const float* cos;  // [T, rotary_dim/2]
  const float* sin;  // [T, rotary_dim/2]
  void* y;           // [T, heads, D] of kind
  int64_t tokens, heads, head_dim, rotary_dim;
  float sin_sign;  // −1 rotates back: the backward
  FloatKind kind;
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
void rope(const RopeArgs& a);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void rope(const RopeArgs& a);
}  // namespace cuda

}  // namespace qlora::model
