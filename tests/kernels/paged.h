#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <vector>

#include "core/cuda/check.h"
#include "core/cuda/paged_arena_cuda.h"
#include "tests/emulation/emulated_cuda.h"
#include "tests/kernels/back_end.h"

namespace qlora::testing {

inline constexpr size_t kChunk = cuda::PagedArena::kLeastChunkBytes;

/// A test on managed memory; the emulated device is as before behind it.
class PagedTest : public KernelTest {
 protected:
  void TearDown() override {
    if (auto* device = emulation::emulated_device()) {
      device->set_concurrent_managed_access(true);
      device->set_seed(1);
      device->set_capacity(kCapacity);
    }
  }

  /// The emulated device has this much memory left.
  static void leave(size_t bytes) {
    size_t free_bytes = 0, total_bytes = 0;
    cuda::check(cudaMemGetInfo(&free_bytes, &total_bytes));
    emulation::emulated_device()->set_capacity(total_bytes - free_bytes + bytes);
  }

  static constexpr size_t kCapacity = size_t{8} << 30;  // as at the start
};

inline bool is_prefetch(const emulation::Operation& o, int device) {
  return o.kind == emulation::OperationKind::kPrefetch && (o.device < 0) == (device < 0);
}
inline bool is_kernel(const emulation::Operation& o, const char* name) {
  return o.kind == emulation::OperationKind::kKernel && o.name.find(name) != std::string::npos;
}

/// Places of the operations that `is` accepts, in the order in which they ran.
template <class Is>
std::vector<size_t> places(const std::vector<emulation::Operation>& log, const Is& is) {
  std::vector<size_t> found;
  for (size_t i = 0; i < log.size(); ++i) {
    if (is(log[i])) found.push_back(i);
  }
  return found;
}

}  // namespace qlora::testing
