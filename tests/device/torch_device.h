#pragma once

#include "tests/emulation/emulated_cuda.h"

namespace qlora::testing {

/// Gives this process its CUDA device, in one of two ways that a program is linked with. Comes
/// before the first backward of the process: libtorch counts devices then.
///   On a GPU  (gpu_torch.cpp) opens the program's own CUDA module; returns null
///   Emulated  (emulated_torch.cpp) opens the module as it is linked with the emulated runtime, and
///             tells libtorch of a device of type CUDA whose memory is that runtime's. From then on
///             tensors on torch::kCUDA work: the project's own kernels are their PTX, executed;
///             libtorch's operations run on the CPU, on copies that come and go in the order of the
///             default stream. The host cannot read such a tensor's memory: who tries ends with a
///             segmentation fault. Freed blocks are given out again without a wait, as libtorch's
///             allocator does, and filled with NaN in the order of the default stream: work of
///             another stream that still reads them sees it
emulation::EmulatedDevice* open_torch_device();

/// Order of streams and threads from here on; a GPU has its own.
inline void set_order(uint64_t seed) {
  if (auto* const device = open_torch_device()) device->set_seed(seed);
}

}  // namespace qlora::testing
