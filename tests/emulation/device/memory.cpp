#include "tests/emulation/device/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace qlora::emulation {
namespace {

constexpr size_t kAlignment = 256;  // of allocations, and the least gap between two

/// What a racing load gets that may drop its value: NaN, so that whoever keeps it notices.
alignas(32) char poison[32];

char* poisoned() {
  std::memset(poison, 0xFF, sizeof(poison));
  return poison;
}

char* find_shared(Thread& thread, uint64_t offset, size_t bytes, Access access, int line) {
  const Block& block = *thread.block;
  if (offset > block.shared_bytes || bytes > block.shared_bytes - offset) {
    fail(thread, line,
         fmt::format("shared memory has {} bytes, {} at {} are accessed", block.shared_bytes, bytes,
                     offset));
  }
  if (const auto race = machine().shared_shadow().note(thread, offset, bytes, access)) {
    if (access == Access::kPerhapsRead) return poisoned();
    fail(thread, line, fmt::format("{} (shared memory, byte {})", *race, offset));
  }
  return block.shared + offset;
}

char* find_local(Thread& thread, uint64_t address, size_t bytes) {
  const Stack stack = stack_of(*thread.fiber);
  const bool is_inside =
      address >= address_of(stack.begin) && address + bytes <= address_of(stack.end);
  return is_inside ? reinterpret_cast<char*>(address) : nullptr;
}

char* find_global(Thread& thread, uint64_t address, size_t bytes, Access access, int line) {
  Allocation* const found = memory().find(address, bytes);
  if (found == nullptr) return nullptr;
  const bool is_write = access == Access::kWrite || access == Access::kAtomic;
  if (found->is_constant && is_write) fail(thread, line, "a write into constant memory");
  const uint64_t offset = address - found->begin;
  if (const auto race = found->shadow.note(thread, offset, bytes, access)) {
    if (access == Access::kPerhapsRead) return poisoned();
    fail(thread, line,
         fmt::format("{} (byte {} of an array of {})", *race, offset, found->size_bytes));
  }
  if (found->kind != MemoryKind::kVariable) {
    if (access != Access::kWrite) thread.block->bytes_read += bytes;
    if (is_write) thread.block->bytes_written += bytes;
  }
  return found->real + offset;
}

}  // namespace

Memory& memory() {
  static Memory the_one;
  return the_one;
}

Memory::Memory() {
  void* reserved =
      mmap(nullptr, kReservedBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    std::perror("[emulation] cannot reserve 64 GiB of addresses for device memory");
    std::abort();
  }
  reserved_ = next_ = address_of(reserved);
}

void* Memory::allocate(size_t bytes, MemoryKind kind) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const bool is_device = kind == MemoryKind::kDevice;
  if (is_device && (bytes > capacity_bytes_ - used_bytes_ ||
                    rounded + kAlignment > reserved_ + kReservedBytes - next_)) {
    return nullptr;
  }
  char* const real = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
  if (real == nullptr) return nullptr;
  std::memset(real, 0xFF, rounded);
  void* const pointer = is_device ? reinterpret_cast<void*>(next_) : real;
  if (is_device) {
    next_ += rounded + kAlignment;
    used_bytes_ += bytes;
  }
  add(pointer, bytes, kind, false);
  allocations_[address_of(pointer)]->real = real;
  return pointer;
}

void Memory::add(void* memory, size_t bytes, MemoryKind kind, bool is_constant) {
  auto allocation =
      std::make_unique<Allocation>(Allocation{address_of(memory), bytes, static_cast<char*>(memory),
                                              kind, is_constant, Shadow(Shadow::Scope::kDevice)});
  allocation->shadow.resize(bytes);
  allocations_[address_of(memory)] = std::move(allocation);
}

bool Memory::release(void* memory, MemoryKind kind) {
  const auto found = allocations_.find(address_of(memory));
  if (found == allocations_.end() || found->second->kind != kind) return false;
  if (kind == MemoryKind::kDevice) used_bytes_ -= found->second->size_bytes;
  if (kind == MemoryKind::kDevice || kind == MemoryKind::kManaged) std::free(found->second->real);
  if (latest_ == found->second.get()) latest_ = nullptr;
  allocations_.erase(found);
  return true;
}

Allocation* Memory::find(uint64_t address, size_t bytes) {
  if (latest_ != nullptr && latest_->holds(address, bytes)) return latest_;
  const auto behind = allocations_.upper_bound(address);
  if (behind == allocations_.begin()) return nullptr;
  Allocation* const found = std::prev(behind)->second.get();
  if (!found->holds(address, bytes)) return nullptr;
  latest_ = found;
  return found;
}

bool Memory::is_device_address(const void* pointer) const {
  return address_of(pointer) >= reserved_ && address_of(pointer) < reserved_ + kReservedBytes;
}

char* Memory::real(const void* pointer, size_t bytes) {
  const uint64_t address = address_of(pointer);
  Allocation* const whole = find(address, bytes);
  if (whole != nullptr) return whole->real + (address - whole->begin);
  if (is_device_address(pointer) || find(address, 1) != nullptr) return nullptr;
  return reinterpret_cast<char*>(address);
}

char* at(Thread& thread, Space space, uint64_t address, size_t bytes, Access access, int line) {
  if (address % bytes != 0) {
    fail(thread, line, fmt::format("a misaligned access, {} bytes at {:#x}", bytes, address));
  }
  if (space ==
      Space::kShared) {  // its addresses have 32 bits: a register's and an offset's sum wraps
    return find_shared(thread, static_cast<uint32_t>(address), bytes, access, line);
  }
  if (space == Space::kGeneric && address >= kSharedWindow &&
      address < kSharedWindow + (uint64_t{1} << 32)) {
    return find_shared(thread, address - kSharedWindow, bytes, access, line);
  }
  char* found = nullptr;
  if (space != Space::kGlobal) found = find_local(thread, address, bytes);
  if (found == nullptr && space != Space::kLocal)
    found = find_global(thread, address, bytes, access, line);
  if (found == nullptr) {
    fail(thread, line,
         fmt::format("an access outside every allocation, {} bytes at {:#x}", bytes, address));
  }
  return found;
}

const char* parameter_at(const Thread& thread, const char* parameters, size_t parameter_bytes,
                         uint64_t address, size_t bytes, int line) {
  if (address % bytes != 0 || address > parameter_bytes || bytes > parameter_bytes - address) {
    fail(thread, line,
         fmt::format("{} bytes at {} of {} bytes of parameters", bytes, address, parameter_bytes));
  }
  return parameters + address;
}

}  // namespace qlora::emulation
