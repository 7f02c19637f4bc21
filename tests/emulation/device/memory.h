#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "tests/emulation/device/machine.h"

namespace qlora::emulation {

enum class Space { kGeneric, kGlobal, kShared, kLocal };

/// Where a block's shared memory lies among generic addresses.
inline constexpr uint64_t kSharedWindow = uint64_t{1} << 60;

enum class MemoryKind {
  kDevice,    // cudaMalloc: the host must not touch it
  kManaged,   // cudaMallocManaged
  kPinned,    // cudaMallocHost, cudaHostRegister
  kVariable,  // of the program's PTX
};

struct Allocation {
  uint64_t begin;  // as the program sees it
  size_t size_bytes;
  char* real;  // where its bytes are
  MemoryKind kind;
  bool is_constant;
  Shadow shadow;

  bool holds(uint64_t address, size_t bytes) const {
    return address >= begin && address - begin <= size_bytes &&
           bytes <= size_bytes - (address - begin);
  }
};

/// All memory that kernels may touch. Addresses of device memory belong to a reserved stretch that
/// the host cannot read (it ends with a segmentation fault, as on a real machine), and are never
/// given out twice, so that use after free is found.
class Memory {
 public:
  Memory();

  /// Null where the device's memory does not suffice. New memory is filled with 0xFF (NaN).
  void* allocate(size_t bytes, MemoryKind kind);
  /// Adds memory that is there already: a pinned array, a variable.
  void add(void* memory, size_t bytes, MemoryKind kind, bool is_constant);
  /// False where no allocation of that kind begins there.
  bool release(void* memory, MemoryKind kind);

  /// The allocation that holds all these bytes, or null.
  Allocation* find(uint64_t address, size_t bytes);
  /// Where the host finds bytes of a program's pointer: device memory translated, host memory as it
  /// is. Null where device or managed memory ends before.
  char* real(const void* pointer, size_t bytes);
  /// True for an address that only the device may touch.
  bool is_device_address(const void* pointer) const;

  size_t capacity_bytes() const { return capacity_bytes_; }
  size_t used_bytes() const { return used_bytes_; }
  void set_capacity(size_t bytes) { capacity_bytes_ = bytes; }

 private:
  static constexpr size_t kReservedBytes = size_t{64} << 30;

  std::map<uint64_t, std::unique_ptr<Allocation>> allocations_;  // by begin
  Allocation* latest_ = nullptr;
  uint64_t reserved_ = 0, next_ = 0;
  size_t capacity_bytes_ = size_t{8} << 30, used_bytes_ = 0;
};

Memory& memory();

/// Bytes that a thread reads or writes: checked for alignment, bounds and races; ends the process
/// where the access is wrong.
char* at(Thread& thread, Space space, uint64_t address, size_t bytes, Access access, int line);

/// Bytes of a kernel's parameters, whose space begins at 0; ends the process where they end before.
const char* parameter_at(const Thread& thread, const char* parameters, size_t parameter_bytes,
                         uint64_t address, size_t bytes, int line);

}  // namespace qlora::emulation
