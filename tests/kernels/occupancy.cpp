// How much of a multiprocessor's threads a kernel keeps busy, by NVIDIA's own calculator. Reads
// lines "CAPABILITY REGISTERS SHARED_BYTES THREADS" and answers each with a percentage.
#include <cuda_occupancy.h>

#include <cstdio>
#include <iostream>

namespace {

struct Multiprocessor {
  int capability;  // 80 for 8.0
  int threads;
  size_t shared_bytes;
  size_t block_shared_bytes;  // most that a block may ask for
};
// CUDA C++ Programming Guide 13.0, table "Technical Specifications per Compute Capability".
constexpr Multiprocessor kKnown[] = {
    {80, 2048, 164 << 10, 163 << 10},
    {89, 1536, 100 << 10, 99 << 10},
    {90, 2048, 228 << 10, 227 << 10},
    {100, 2048, 228 << 10, 227 << 10},
};

/// Percent; negative where the calculator refuses.
int occupancy(const Multiprocessor& m, int registers, size_t shared_bytes, int threads) {
  cudaOccDeviceProp device = {};
  device.computeMajor = m.capability / 10;
  device.computeMinor = m.capability % 10;
  device.maxThreadsPerBlock = 1024;
  device.maxThreadsPerMultiprocessor = m.threads;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32;
  device.sharedMemPerBlock = 48 << 10;
  device.sharedMemPerMultiprocessor = m.shared_bytes;
  device.numSms = 1;
  device.sharedMemPerBlockOptin = m.block_shared_bytes;
  device.reservedSharedMemPerBlock = 1024;
  cudaOccFuncAttributes kernel = {};
  kernel.maxThreadsPerBlock = 1024;
  kernel.numRegs = registers;
  kernel.sharedSizeBytes = shared_bytes;
  kernel.maxDynamicSharedSizeBytes = m.block_shared_bytes;
  const cudaOccDeviceState state = {};
  cudaOccResult result = {};
  if (cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, 0) !=
      CUDA_OCC_SUCCESS) {
    return -1;
  }
  return 100 * result.activeBlocksPerMultiprocessor * threads / m.threads;
}

}  // namespace

int main() {
  int capability = 0, registers = 0, threads = 0;
  size_t shared_bytes = 0;
  while (std::cin >> capability >> registers >> shared_bytes >> threads) {
    int percent = -1;
    for (const Multiprocessor& m : kKnown) {
      if (m.capability == capability) percent = occupancy(m, registers, shared_bytes, threads);
    }
    std::printf("%d\n", percent);
  }
}
