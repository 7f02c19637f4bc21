#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::lora {

/// y[i] = draw(i) < p·65536 ? 0 : x[i] / (1 − p), where draw(i) is the 16-bit half i % 2 of word
/// (i / 2) % 4 of philox4x32(i / 8, stream, seed).
struct DropoutArgs {
  const void* x;  // [count] of kind
  void* y;        // [count] of kind
  int64_t count;
  double probability;  // p in [0, 1), resolved to 1/65536
  uint64_t seed, stream;
  FloatKind kind;
};

namespace cpu {
void dropout(const DropoutArgs& a);
}  // namespace cpu

}  // namespace qlora::lora
