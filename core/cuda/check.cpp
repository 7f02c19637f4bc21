#include "core/cuda/check.h"

#include <string_view>

#include "core/error.h"

namespace qlora::cuda {
namespace {

const char* advice(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "lower the batch size or max_length, or turn gradient_checkpointing on";
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
      return "check nvidia-smi, or choose the device cpu";
    case cudaErrorNoKernelImageForDevice:
      return "this GPU is none of those the module was compiled for (QLORA_CUDA_ARCHITECTURES)";
    default:
      return "the GPU may have to be reset if it repeats";
  }
}

}  // namespace

void check(cudaError_t status, std::source_location where) {
  if (status == cudaSuccess) return;
  std::string_view file = where.file_name();
  file.remove_prefix(file.find_last_of('/') + 1);
  throw DeviceError(fmt::format("[cuda] {} ({}) in {}, {}:{}; {}", cudaGetErrorName(status),
                                cudaGetErrorString(status), where.function_name(), file,
                                where.line(), advice(status)));
}

}  // namespace qlora::cuda
