#pragma once

#include <ATen/ops/empty.h>
#include <torch/types.h>

#include <cstdint>

namespace qlora::lora {

/// The buffer that weights are decoded into on the CPU, [rows, cols] of dtype: one a thread, as
/// large as the largest weight asked for so far. The next call overwrites it.
inline torch::Tensor weight_scratch(int64_t rows, int64_t cols, torch::ScalarType dtype) {
  thread_local torch::Tensor buffer;
  const int64_t bytes = rows * cols * static_cast<int64_t>(c10::elementSize(dtype));
  if (!buffer.defined() || buffer.numel() < bytes) {
    buffer = at::empty({bytes}, torch::TensorOptions(torch::kUInt8));
  }
  return buffer.narrow(0, 0, bytes).view(dtype).view({rows, cols});
}

}  // namespace qlora::lora
