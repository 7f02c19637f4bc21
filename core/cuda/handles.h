#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

#include "core/cuda/check.h"

namespace qlora::cuda {

/// Owns one CUDA handle; movable. A failing destroy is ignored: there is nobody left to tell.
template <class Handle, cudaError_t (*Destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) Destroy(handle_);
  }

  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

/// A side stream, which does not wait for the default stream.
class Stream : public Owned<cudaStream_t, cudaStreamDestroy> {
 public:
  Stream() : Owned(create()) {}
  void synchronize() const { check(cudaStreamSynchronize(get())); }

 private:
  static cudaStream_t create() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
};

/// A mark in a stream that other streams and the host can wait for. Keeps no time.
class Event : public Owned<cudaEvent_t, cudaEventDestroy> {
 public:
  Event() : Owned(create()) {}
  void record(cudaStream_t stream) const { check(cudaEventRecord(get(), stream)); }
  void block(cudaStream_t stream) const { check(cudaStreamWaitEvent(stream, get(), 0)); }
  void synchronize() const { check(cudaEventSynchronize(get())); }

 private:
  static cudaEvent_t create() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    return event;
  }
};

/// An event that keeps its time, for measuring what a stream waits.
class TimedEvent : public Owned<cudaEvent_t, cudaEventDestroy> {
 public:
  TimedEvent() : Owned(create()) {}
  void record(cudaStream_t stream) const { check(cudaEventRecord(get(), stream)); }

 private:
  static cudaEvent_t create() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event));
    return event;
  }
};

/// Memory of the current device.
class DeviceMemory : public Owned<void*, cudaFree> {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t bytes) : Owned(allocate(bytes)), size_bytes_(bytes) {}

  size_t size_bytes() const { return size_bytes_; }

 private:
  static void* allocate(size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes));
    return memory;
  }

  size_t size_bytes_ = 0;
};

/// Memory of the host that a device reads and writes without staging.
class PinnedMemory : public Owned<void*, cudaFreeHost> {
 public:
  explicit PinnedMemory(size_t bytes) : Owned(allocate(bytes)) {}

 private:
  static void* allocate(size_t bytes) {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, bytes));
    return memory;
  }
};

/// Memory that host and device share, moved between them by prefetch (or page by page on a fault).
class ManagedMemory : public Owned<void*, cudaFree> {
 public:
  ManagedMemory() = default;
  explicit ManagedMemory(size_t bytes) : Owned(allocate(bytes)), size_bytes_(bytes) {}

  size_t size_bytes() const { return size_bytes_; }

  /// Queues the move of [offset, offset + bytes) to a device, or to the host (cudaCpuDeviceId).
  void prefetch(size_t offset, size_t bytes, int device, cudaStream_t stream) const {
    cudaMemLocation to = {};
    to.type = device == cudaCpuDeviceId ? cudaMemLocationTypeHost : cudaMemLocationTypeDevice;
    to.id = device == cudaCpuDeviceId ? 0 : device;
    check(cudaMemPrefetchAsync(static_cast<std::byte*>(get()) + offset, bytes, to, 0, stream));
  }

 private:
  static void* allocate(size_t bytes) {
    void* memory = nullptr;
    check(cudaMallocManaged(&memory, bytes, cudaMemAttachGlobal));
    return memory;
  }

  size_t size_bytes_ = 0;
};

}  // namespace qlora::cuda
