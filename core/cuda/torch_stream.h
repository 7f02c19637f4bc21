#pragma once

#include <cstdint>

namespace qlora::cuda {

// What the module asks libtorch: compiled into libqlora_cuda.so alone, so that kernels need no
// libtorch.

/// libtorch's current stream of a device (cudaStream_t).
void* torch_current_stream(int device);

/// Most bytes of its tensors at once.
int64_t torch_peak_bytes(int device);

}  // namespace qlora::cuda
