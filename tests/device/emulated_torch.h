#pragma once

#include "tests/emulation/emulated_cuda.h"

namespace qlora::testing {

/// Gives this process a CUDA device without a GPU: opens the CUDA module as it is linked with the
/// emulated runtime, and tells libtorch of a device of type CUDA whose memory is that runtime's.
/// From then on tensors on torch::kCUDA work: the project's own kernels are their PTX, executed;
/// libtorch's operations run on the CPU, on copies that come and go in the order of the default
/// stream. The host cannot read such a tensor's memory: who tries ends with a segmentation fault.
///   Memory    freed blocks are given out again without a wait, as libtorch's allocator does, and
///             filled with NaN in the order of the default stream: work of another stream that
///             still reads them sees it
///   Once      before the first backward of the process: libtorch counts devices then
emulation::EmulatedDevice& emulated_cuda_of_torch();

}  // namespace qlora::testing
