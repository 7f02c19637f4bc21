#include "core/cuda/device.h"

#include "core/error.h"

namespace qlora::cuda {

int device_count() {
  return table<CoreTable>().device_count();
}

DeviceInfo device_info(int device) {
  DeviceInfo info = {};
  table<CoreTable>().device_info(device, &info);
  return info;
}

void check_capability(const DeviceInfo& info) {
  QLORA_CHECK(10 * info.major + info.minor >= kOldestCapability, DeviceError,
              "[cuda] {} has compute capability {}.{}, allowed {}.{} and above (Ampere); take a "
              "newer GPU, or choose the device cpu",
              info.name, info.major, info.minor, kOldestCapability / 10, kOldestCapability % 10);
}

void* current_stream(int device) {
  return table<CoreTable>().current_stream(device);
}

int64_t peak_tensor_bytes(int device) {
  return table<CoreTable>().peak_tensor_bytes(device);
}

}  // namespace qlora::cuda
