#pragma once

#include <cmath>
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
  void* device_stream = nullptr;  // cudaStream_t
};

/// Draws below it drop an element.
inline uint32_t dropout_threshold(double probability) {
  return static_cast<uint32_t>(std::lround(probability * 65536.0));
}

/// Factor of the elements that stay.
inline float dropout_scale(double probability) {
  return static_cast<float>(1.0 / (1.0 - probability));
}

namespace cpu {
void dropout(const DropoutArgs& a);
}  // namespace cpu

/// Pointers are device memory. All work is queued on device_stream; nothing waits for it.
namespace cuda {
void dropout(const DropoutArgs& a);
}  // namespace cuda

}  // namespace qlora::lora
