#pragma once

#include <ATen/ops/empty.h>
#include <torch/types.h>

#include <cstdint>

namespace qlora::lora {

/// A buffer on the CPU, [rows, cols] of dtype: one a use and thread, as large as the largest asked
/// for so far. The next call for that use overwrites it.
///   Use       any type, which tells the buffers apart
template <class Use>
torch::Tensor scratch(int64_t rows, int64_t cols, torch::ScalarType dtype) {
  thread_local torch::Tensor buffer;
  const int64_t bytes = rows * cols * static_cast<int64_t>(c10::elementSize(dtype));
  if (!buffer.defined() || buffer.numel() < bytes) {
    buffer = torch::Tensor();  // first, so that both never exist at once
    buffer = at::empty({bytes}, torch::TensorOptions(torch::kUInt8));
  }
  return buffer.narrow(0, 0, bytes).view(dtype).view({rows, cols});
}

/// What weights are decoded into.
inline torch::Tensor weight_scratch(int64_t rows, int64_t cols, torch::ScalarType dtype) {
  return scratch<struct DecodedWeights>(rows, cols, dtype);
}

}  // namespace qlora::lora
