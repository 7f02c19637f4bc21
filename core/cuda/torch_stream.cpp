#include "core/cuda/torch_stream.h"

#include <c10/cuda/CUDAStream.h>

namespace qlora::cuda {

void* torch_current_stream(int device) {
  return c10::cuda::getCurrentCUDAStream(static_cast<c10::DeviceIndex>(device)).stream();
}

}  // namespace qlora::cuda
