#pragma once

#include "core/cuda/device.h"

namespace qlora::cuda {

// What the module asks libtorch: compiled into libqlora_cuda.so alone, so that kernels need no
// libtorch.

/// libtorch's current stream of a device (cudaStream_t).
void* torch_current_stream(int device);

MemoryUse torch_memory_use(int device);

}  // namespace qlora::cuda
