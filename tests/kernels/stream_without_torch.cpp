#include "core/cuda/torch_stream.h"

namespace qlora::cuda {

/// Stands in for core/cuda/torch_stream.cpp where there is no libtorch: the default stream, and no
/// tensors.
void* torch_current_stream(int) {
  return nullptr;
}

int64_t torch_peak_bytes(int) {
  return 0;
}

}  // namespace qlora::cuda
