#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What tests ask the emulated CUDA runtime, beyond what CUDA's own interface tells. Programs that
// are linked with the real one find nobody there: emulated_device() is null.

namespace qlora::emulation {

enum class OperationKind { kKernel, kCopy, kSet, kPrefetch, kRecord, kWait, kHostFunction };

struct Dimensions {
  uint32_t x, y, z;
};

/// One piece of work that a stream was given.
struct Operation {
  OperationKind kind;
  int stream;             // 0: the default stream; others in the order of their creation
  std::string name = {};  // of a kernel: its .entry, mangled
  Dimensions grid = {}, block = {};
  size_t shared_bytes = 0;        // dynamic
  const void* address = nullptr;  // destination, prefetched range, event
  const void* source = nullptr;
  size_t bytes = 0;
  int device = 0;  // prefetch: target, -1 is the host
  // Of a kernel: bytes of arrays that its threads read and wrote, in all, and by the block with the
  // fewest and the most. Tables of the program itself do not count.
  uint64_t bytes_read = 0, bytes_written = 0;
  uint64_t least_block_bytes = 0, most_block_bytes = 0;
};

/// The emulated device. Work that is queued runs when somebody waits for it: streams in a random
/// order that events and the default stream allow, so that a missing wait shows.
class EmulatedDevice {
 public:
  /// What has run, in the order in which it ran.
  virtual std::vector<Operation> operations() const = 0;
  virtual void clear_operations() = 0;

  /// Every .entry of the PTX that the program registered.
  virtual std::vector<std::string> entries() const = 0;

  /// Order of threads, blocks and streams; 0: as they are numbered and queued. At the start it is
  /// $QLORA_EMULATION_SEED, or 1.
  virtual void set_seed(uint64_t seed) = 0;

  /// Bytes of the device's memory. An allocation that does not fit fails as on a device.
  virtual void set_capacity(size_t bytes) = 0;
  /// What cudaDevAttrConcurrentManagedAccess and the properties say.
  virtual void set_concurrent_managed_access(bool is_concurrent) = 0;

 protected:
  ~EmulatedDevice() = default;
};

}  // namespace qlora::emulation

extern "C" [[gnu::weak]] qlora::emulation::EmulatedDevice* qlora_emulated_device();

namespace qlora::emulation {

/// The emulated device that this program runs on; null on the real runtime.
inline EmulatedDevice* emulated_device() {
  return qlora_emulated_device != nullptr ? qlora_emulated_device() : nullptr;
}

}  // namespace qlora::emulation
