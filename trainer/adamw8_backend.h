#pragma once

#include <cstdint>
#include <span>

#include "trainer/adamw_math.h"

namespace qlora::trainer {

/// One parameter tensor with 8-bit states.
struct Adamw8Tensor {
  float* parameter;       // [count]
  const float* gradient;  // [count]
  uint8_t* mean_codes;    // [count] signed dynamic map
  uint8_t* square_codes;  // [count] unsigned dynamic map
  float* mean_absmax;     // [ceil(count / 256)]
  float* square_absmax;   // [ceil(count / 256)]
  int64_t count;
};

struct Adamw8Args {
  std::span<const Adamw8Tensor> tensors;
  AdamwStep step;
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
/// Decodes the states, updates, and encodes them again: nearest code, and a negative mean never
/// becomes 0 (SignRule::kKeep).
///   Numerics  bit-exact with adamw_math.h and quant/blockwise8_math.h on every instruction set
///             and thread count
void adamw8(const Adamw8Args& args);

/// One tensor, on the calling thread.
void adamw8_run(const Adamw8Tensor& tensor, const AdamwStep& step);
}  // namespace cpu

/// Pointers are device memory; the span itself is the host's. All work is queued on args.stream.
namespace cuda {
void adamw8(const Adamw8Args& args);
}  // namespace cuda

}  // namespace qlora::trainer
