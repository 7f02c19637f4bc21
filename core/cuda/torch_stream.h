#pragma once

namespace qlora::cuda {

/// libtorch's current stream of a device (cudaStream_t). The one function of the module that asks
/// libtorch; it is compiled into libqlora_cuda.so alone, so that kernels need no libtorch.
void* torch_current_stream(int device);

}  // namespace qlora::cuda
