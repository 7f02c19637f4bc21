// The CUDA runtime of the source route: device memory is the heap, and every call is done when it
// returns. Only what tests of kernels call.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <functional>

#include "tests/emulation/device/machine.h"

namespace qlora::emulation::source {
namespace {

/// The only parameter of a launch.
struct Parameter {
  const std::function<void()>* body = nullptr;
};

/// What a fiber calls: the launch's body.
void call_body(Thread&, const char* parameters) {
  Parameter parameter;
  std::memcpy(&parameter, parameters, sizeof(parameter));
  (*parameter.body)();
}

}  // namespace

void launch_blocks(const std::function<void()>& body, dim3 grid, dim3 block, size_t dynamic_shared,
                   cudaStream_t) {
  static const Entry entry = {.name = "kernel of the source route",
                              .function = &call_body,
                              .parameter_bytes = sizeof(Parameter),
                              .shared_bytes = 0,
                              .max_threads = 0,
                              .parameters = {}};
  const Parameter parameter{&body};
  std::vector<char> parameters(sizeof(parameter));
  std::memcpy(parameters.data(), &parameter, sizeof(parameter));
  machine().run(
      {&entry, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, dynamic_shared, parameters});
}

}  // namespace qlora::emulation::source

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  *pointer = std::malloc(bytes);
  if (*pointer != nullptr) std::memset(*pointer, 0xFF, bytes);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(target, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(target, value, bytes);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t) {
  return "an error of the source route";
}
const char* cudaGetErrorString(cudaError_t) {
  return "out of memory";
}

}  // extern "C"
