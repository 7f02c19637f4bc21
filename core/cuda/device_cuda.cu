#include <algorithm>
#include <cstring>

#include "core/cuda/check.h"
#include "core/cuda/device.h"
#include "core/cuda/torch_stream.h"

namespace qlora::cuda {
namespace {

int count_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice) return 0;
  check(status);
  return count;
}

void describe_device(int device, DeviceInfo* info) {
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, device));
  std::memcpy(info->name, properties.name, std::min(sizeof(info->name), sizeof(properties.name)));
  info->name[sizeof(info->name) - 1] = '\0';
  info->major = properties.major;
  info->minor = properties.minor;
  int before = 0;
  check(cudaGetDevice(&before));
  check(cudaSetDevice(device));
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  check(cudaSetDevice(before));
  info->free_bytes = static_cast<int64_t>(free_bytes);
  info->total_bytes = static_cast<int64_t>(total_bytes);
}

constexpr CoreTable kTable = {{CoreTable::kVersion, sizeof(CoreTable)},
                              &count_devices,
                              &describe_device,
                              &torch_current_stream,
                              &torch_peak_bytes};

}  // namespace
}  // namespace qlora::cuda

extern "C" [[gnu::visibility("default")]] const qlora::cuda::TableHeader* qlora_core_cuda_table() {
  return &qlora::cuda::kTable.header;
}
