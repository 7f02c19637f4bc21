#pragma once

#include <cstdint>
#include <string>

#include "core/cuda/module.h"

namespace qlora::cuda {

/// What a CUDA device is and has. Every function here opens the module (core/cuda/module.h) and
/// throws its DeviceError where that fails.
struct DeviceInfo {
  char name[256];
  int32_t major;  // compute capability, e.g. 9.0
  int32_t minor;
  int64_t total_bytes;
  int64_t free_bytes;
};

int device_count();
DeviceInfo device_info(int device);

/// Oldest compute capability that kernels are compiled for, times ten: the lowest of
/// QLORA_CUDA_ARCHITECTURES.
inline constexpr int32_t kOldestCapability = 80;

/// throws    DeviceError with the GPU's name and capability where it is older
void check_capability(const DeviceInfo& info);

/// libtorch's current stream of a device (cudaStream_t), for the back ends' argument structs.
void* current_stream(int device);

/// Most bytes that libtorch's tensors took of a device's memory at once. Blocks that its allocator
/// keeps for later and what others allocate come on top.
int64_t peak_tensor_bytes(int device);

/// What libqlora_cuda.so hands over for this folder.
struct CoreTable {
  static constexpr const char* kSymbol = "qlora_core_cuda_table";
  static constexpr uint32_t kVersion = 2;

  TableHeader header;
  int (*device_count)();
  void (*device_info)(int device, DeviceInfo* info);
  void* (*current_stream)(int device);
  int64_t (*peak_tensor_bytes)(int device);
};

}  // namespace qlora::cuda
