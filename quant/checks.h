#pragma once

#include <torch/types.h>

#include <string>

#include "core/cuda/device.h"
#include "core/device.h"
#include "core/error.h"
#include "quant/blockwise8_backend.h"

namespace qlora::quant {

/// throws DeviceError for anything but the CPU and CUDA
inline void check_device(const torch::Tensor& tensor, const char* what) {
  QLORA_CHECK(tensor.device().is_cpu() || tensor.is_cuda(), DeviceError,
              "[quant] {} is on device {}, allowed cpu and cuda", what, tensor.device().str());
}

/// Stream that the back end works on; null on the CPU.
inline void* stream_of(const torch::Tensor& tensor) {
  return tensor.is_cuda() ? qlora::cuda::current_stream(tensor.device().index()) : nullptr;
}

/// Storage for a back end's `first_bad_block`, on the device of `like`.
inline torch::Tensor no_bad_block(const torch::Tensor& like) {
  return torch::full({1}, kNoBadBlock, like.options().dtype(torch::kInt64));
}

/// Index of the first element of `flat` that is not finite, given the first block with one; -1
/// where there is none. Waits for the device.
int64_t first_bad_element(const torch::Tensor& flat, int64_t block_size,
                          const torch::Tensor& first_bad_block);

}  // namespace qlora::quant
