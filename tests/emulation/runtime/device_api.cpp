#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <utility>

#include "tests/emulation/device/memory.h"
#include "tests/emulation/runtime/state.h"

// The device and its errors, and what tests ask beyond CUDA (emulated_cuda.h).

namespace qlora::emulation {
namespace {

cudaError_t last_error = cudaSuccess;

struct ErrorName {
  cudaError_t status;
  const char* name;
  const char* text;
};
constexpr ErrorName kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
};

const ErrorName* describe(cudaError_t status) {
  const auto* const found = std::find_if(std::begin(kErrors), std::end(kErrors),
                                         [&](const ErrorName& e) { return e.status == status; });
  return found == std::end(kErrors) ? nullptr : found;
}

int number_from_environment(const char* name, int otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : static_cast<int>(std::strtol(text, nullptr, 10));
}

class Device final : public EmulatedDevice {
 public:
  Device() {
    machine().set_seed(static_cast<uint64_t>(number_from_environment("QLORA_EMULATION_SEED", 1)));
  }
  std::vector<Operation> operations() const override { return schedule().done(); }
  void clear_operations() override { schedule().clear_log(); }
  std::vector<std::string> entries() const override { return registered_entries(); }
  void set_seed(uint64_t seed) override { machine().set_seed(seed); }
  void set_capacity(size_t bytes) override { memory().set_capacity(bytes); }
  void set_concurrent_managed_access(bool is_concurrent) override {
    device_settings().has_concurrent_managed_access = is_concurrent;
  }
};

Device device;

}  // namespace

DeviceSettings& device_settings() {
  static DeviceSettings settings = {.capability = QLORA_EMULATED_CAPABILITY};
  return settings;
}

cudaError_t remember(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

}  // namespace qlora::emulation

using namespace qlora::emulation;

extern "C" {

qlora::emulation::EmulatedDevice* qlora_emulated_device() {
  return &device;
}

cudaError_t cudaGetLastError() {
  return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}
const char* cudaGetErrorName(cudaError_t status) {
  const ErrorName* const found = describe(status);
  return found == nullptr ? "an error that the emulation has no name for" : found->name;
}
const char* cudaGetErrorString(cudaError_t status) {
  const ErrorName* const found = describe(status);
  return found == nullptr ? "unrecognized error code" : found->text;
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* number) {
  *number = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int number) {
  return number == 0 ? cudaSuccess : remember(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceSynchronize() {
  schedule().wait_for_all();
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int number) {
  if (number != 0) return remember(cudaErrorInvalidDevice);
  *properties = {};
  std::strncpy(properties->name, "emulated device", sizeof(properties->name) - 1);
  properties->major = device_settings().capability / 10;
  properties->minor = device_settings().capability % 10;
  properties->totalGlobalMem = memory().capacity_bytes();
  properties->warpSize = kLanes;
  properties->maxThreadsPerBlock = kMaxThreads;
  properties->multiProcessorCount = 1;
  properties->sharedMemPerBlock = 48 << 10;
  properties->managedMemory = 1;
  properties->concurrentManagedAccess = device_settings().has_concurrent_managed_access ? 1 : 0;
  properties->unifiedAddressing = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int number) {
  if (number != 0) return remember(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = device_settings().capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device_settings().capability % 10;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrConcurrentManagedAccess:
      *value = device_settings().has_concurrent_managed_access ? 1 : 0;
      return cudaSuccess;
    case cudaDevAttrMemoryClockRate:  // no bandwidth to compare with
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 0;
      return cudaSuccess;
    default:
      return remember(cudaErrorInvalidValue);
  }
}

}  // extern "C"
