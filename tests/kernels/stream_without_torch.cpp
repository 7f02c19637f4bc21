#include "core/cuda/torch_stream.h"

namespace qlora::cuda {

/// Stands in for core/cuda/torch_stream.cpp where there is no libtorch: the default stream.
void* torch_current_stream(int) {
  return nullptr;
}

}  // namespace qlora::cuda
