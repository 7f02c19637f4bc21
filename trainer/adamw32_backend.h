#pragma once

#include <cstdint>
#include <span>

#include "trainer/adamw_math.h"

namespace qlora::trainer {

/// One parameter tensor with 32-bit states.
struct Adamw32Tensor {
  float* parameter;       // [count]
  const float* gradient;  // [count]
  float* mean;            // [count]
  float* square;          // [count]
  int64_t count;
};

struct Adamw32Args {
  std::span<const Adamw32Tensor> tensors;
  AdamwStep step;
  void* stream = nullptr;  // cudaStream_t
};

namespace cpu {
/// Updates all tensors in parallel.
///   Numerics  bit-exact with adamw_math.h on every instruction set and thread count
void adamw32(const Adamw32Args& args);

/// Elements [begin, end) of one tensor, on the calling thread.
void adamw32_range(const Adamw32Tensor& tensor, int64_t begin, int64_t end, const AdamwStep& step);
}  // namespace cpu

/// Pointers are device memory; the span itself is the host's. All work is queued on args.stream.
namespace cuda {
void adamw32(const Adamw32Args& args);
}  // namespace cuda

}  // namespace qlora::trainer
