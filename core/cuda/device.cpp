#include "core/cuda/device.h"

namespace qlora::cuda {

int device_count() {
  return table<CoreTable>().device_count();
}

DeviceInfo device_info(int device) {
  DeviceInfo info = {};
  table<CoreTable>().device_info(device, &info);
  return info;
}

void* current_stream(int device) {
  return table<CoreTable>().current_stream(device);
}

}  // namespace qlora::cuda
