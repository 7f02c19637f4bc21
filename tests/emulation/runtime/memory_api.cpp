#include <cstring>
#include <vector>

#include "tests/emulation/device/memory.h"
#include "tests/emulation/runtime/state.h"

// Memory: allocation, copies, prefetch. Copies between the device and host memory that is not
// pinned behave as documented: what is read from such memory is read before the call returns, and
// what is written into it has been written.

namespace qlora::emulation {
namespace {

cudaError_t allocate(void** pointer, size_t bytes, MemoryKind kind) {
  if (pointer == nullptr) return remember(cudaErrorInvalidValue);
  *pointer = bytes == 0 ? nullptr : memory().allocate(bytes, kind);
  return bytes != 0 && *pointer == nullptr ? remember(cudaErrorMemoryAllocation) : cudaSuccess;
}

cudaError_t release(void* pointer, std::initializer_list<MemoryKind> kinds) {
  if (pointer == nullptr) return cudaSuccess;
  schedule().wait_for_all();
  for (const MemoryKind kind : kinds) {
    if (memory().release(pointer, kind)) return cudaSuccess;
  }
  return remember(cudaErrorInvalidValue);
}

bool is_pageable(const void* pointer) {
  return !memory().is_device_address(pointer) && memory().find(address_of(pointer), 1) == nullptr;
}

/// False where `kind` contradicts where the pointers point.
bool is_right_direction(const void* target, const void* source, cudaMemcpyKind kind) {
  const bool to_device = memory().is_device_address(target),
             from_device = memory().is_device_address(source);
  switch (kind) {
    case cudaMemcpyHostToDevice:
      return !is_pageable(target) && !from_device;
    case cudaMemcpyDeviceToHost:
      return !to_device && !is_pageable(source);
    case cudaMemcpyDeviceToDevice:
      return !is_pageable(target) && !is_pageable(source);
    case cudaMemcpyHostToHost:
      return !to_device && !from_device;
    case cudaMemcpyDefault:
      return true;
  }
  return false;
}

cudaError_t copy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                 cudaStream_t stream, bool waits) {
  if (bytes == 0) return cudaSuccess;
  Stream* const queue = schedule().find_stream(stream);
  if (queue == nullptr) return remember(cudaErrorInvalidResourceHandle);
  if (!is_right_direction(target, source, kind)) return remember(cudaErrorInvalidMemcpyDirection);
  char* const to = memory().real(target, bytes);
  const char* from = memory().real(source, bytes);
  if (to == nullptr || from == nullptr) return remember(cudaErrorInvalidValue);
  std::vector<char> staged;
  if (!waits && is_pageable(source)) staged.assign(from, from + bytes);
  const Operation operation = {.kind = OperationKind::kCopy,
                               .stream = 0,
                               .address = target,
                               .source = source,
                               .bytes = bytes};
  const OperationNumber number =
      schedule().add(*queue, operation, [=, staged = std::move(staged)](Operation&) {
        std::memmove(to, staged.empty() ? from : staged.data(), bytes);
      });
  if (waits || is_pageable(target)) schedule().wait_for(number);
  return cudaSuccess;
}

cudaError_t fill(void* target, int value, size_t bytes, cudaStream_t stream, bool waits) {
  if (bytes == 0) return cudaSuccess;
  Stream* const queue = schedule().find_stream(stream);
  if (queue == nullptr) return remember(cudaErrorInvalidResourceHandle);
  char* const to = is_pageable(target) ? nullptr : memory().real(target, bytes);
  if (to == nullptr) return remember(cudaErrorInvalidValue);
  const Operation operation = {
      .kind = OperationKind::kSet, .stream = 0, .address = target, .bytes = bytes};
  const OperationNumber number =
      schedule().add(*queue, operation, [=](Operation&) { std::memset(to, value, bytes); });
  if (waits) schedule().wait_for(number);
  return cudaSuccess;
}

/// The managed allocation that holds a range, or null.
const Allocation* find_managed(const void* pointer, size_t bytes) {
  const Allocation* const found = memory().find(address_of(pointer), bytes);
  return found != nullptr && found->kind == MemoryKind::kManaged ? found : nullptr;
}

}  // namespace
}  // namespace qlora::emulation

using namespace qlora::emulation;

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return allocate(pointer, bytes, MemoryKind::kDevice);
}
cudaError_t cudaMallocManaged(void** pointer, size_t bytes, unsigned flags) {
  if (bytes == 0 || (flags != cudaMemAttachGlobal && flags != cudaMemAttachHost))
    return remember(cudaErrorInvalidValue);
  return allocate(pointer, bytes, MemoryKind::kManaged);
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  return allocate(pointer, bytes, MemoryKind::kPinned);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return allocate(pointer, bytes, MemoryKind::kPinned);
}
cudaError_t cudaFree(void* pointer) {
  return release(pointer, {MemoryKind::kDevice, MemoryKind::kManaged});
}
cudaError_t cudaFreeHost(void* pointer) {
  char* const real = pointer == nullptr ? nullptr : memory().real(pointer, 1);
  const cudaError_t status = release(pointer, {MemoryKind::kPinned});
  if (status == cudaSuccess) std::free(real);
  return status;
}
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  if (pointer == nullptr || bytes == 0 || !is_pageable(pointer))
    return remember(cudaErrorInvalidValue);
  memory().add(pointer, bytes, MemoryKind::kPinned, false);
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* pointer) {
  return release(pointer, {MemoryKind::kPinned});
}

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind kind) {
  return copy(target, source, bytes, kind, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return copy(target, source, bytes, kind, stream, false);
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  return fill(target, value, bytes, nullptr, false);
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  return fill(target, value, bytes, stream, false);
}

cudaError_t cudaMemPrefetchAsync(const void* pointer, size_t bytes, cudaMemLocation to,
                                 unsigned flags, cudaStream_t stream) {
  Stream* const queue = schedule().find_stream(stream);
  if (queue == nullptr) return remember(cudaErrorInvalidResourceHandle);
  const bool is_host = to.type == cudaMemLocationTypeHost;
  const bool is_device = to.type == cudaMemLocationTypeDevice && to.id == 0;
  if (flags != 0 || bytes == 0 || (!is_host && !is_device) ||
      find_managed(pointer, bytes) == nullptr) {
    return remember(cudaErrorInvalidValue);
  }
  if (!device_settings().has_concurrent_managed_access) return remember(cudaErrorInvalidDevice);
  schedule().add(*queue,
                 {.kind = OperationKind::kPrefetch,
                  .stream = 0,
                  .address = pointer,
                  .bytes = bytes,
                  .device = is_host ? -1 : 0},
                 [](Operation&) {});
  return cudaSuccess;
}
cudaError_t cudaMemAdvise(const void* pointer, size_t bytes, cudaMemoryAdvise, cudaMemLocation) {
  return find_managed(pointer, bytes) != nullptr ? cudaSuccess : remember(cudaErrorInvalidValue);
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = memory().capacity_bytes();
  *free_bytes =
      memory().capacity_bytes() - std::min(memory().used_bytes(), memory().capacity_bytes());
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const Allocation* const found = memory().find(address_of(pointer), 1);
  *attributes = {};
  attributes->device = found == nullptr ? -2 : 0;
  attributes->type = cudaMemoryTypeUnregistered;
  if (found == nullptr) return cudaSuccess;
  void* const address = const_cast<void*>(pointer);
  attributes->devicePointer = address;
  attributes->hostPointer = found->kind == MemoryKind::kDevice ? nullptr : address;
  attributes->type = found->kind == MemoryKind::kManaged  ? cudaMemoryTypeManaged
                     : found->kind == MemoryKind::kPinned ? cudaMemoryTypeHost
                                                          : cudaMemoryTypeDevice;
  return cudaSuccess;
}

}  // extern "C"
