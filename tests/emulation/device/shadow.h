#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace qlora::emulation {

struct Thread;

enum class Access {
  kRead,
  kPerhapsRead,  // the value may be dropped (translator/discarded_loads.py)
  kWrite,
  kAtomicRead,
  kAtomic,
};

/// Time on the device: a number that rises with every launch, block and barrier. Within one epoch
/// the threads of a block are ordered by warp barriers only. Blocks of a launch are ordered only by
/// a fence and an atomic operation on one side and a later atomic operation on the same address on
/// the other (CUDA's threadFenceReduction).
class Epochs {
 public:
  void start_launch();
  void start_block();
  void pass_barrier() { ++now_; }

  uint32_t now() const { return now_; }
  uint32_t block_begin() const { return block_begin_; }
  uint32_t launch_begin() const { return launch_begin_; }

  /// True where an earlier block's access at `epoch` comes before whatever the present block does.
  bool has_acquired(uint32_t epoch) const;
  /// An atomic operation of the present block on an address.
  void meet(uint64_t address, bool has_released);

 private:
  uint32_t now_ = 1, block_begin_ = 1, launch_begin_ = 1;
  std::vector<uint32_t> block_begins_;  // of this launch
  std::set<uint32_t> acquired_;         // beginnings of blocks that come before this one
  std::map<uint64_t, std::set<uint32_t>> released_;  // per address
};

/// Who touched each byte of a stretch of memory last, so that an access that nothing orders against
/// an earlier one is found when it happens (FastTrack: Flanagan and Freund, PLDI 2009).
class Shadow {
 public:
  enum class Scope { kDevice, kBlock };  // kBlock: every block has such memory of its own
  explicit Shadow(Scope scope) : scope_(scope) {}
  void resize(size_t bytes);

  /// Notes an access; what it collides with, where it does.
  std::optional<std::string> note(const Thread& thread, size_t offset, size_t bytes, Access access);

 private:
  struct Stamp {
    uint32_t epoch = 0;  // 0: never
    uint32_t clock = 0;  // the lane's own, within the epoch
    uint32_t thread = 0;
  };
  struct Cell {
    Stamp write, read;
    uint32_t reader_lanes = 0;      // of read.thread's warp; 0: several warps
    uint32_t other_block_read = 0;  // epoch of a read by an earlier block of the launch
    bool is_atomic_write = false;
  };
  static constexpr size_t kPageBytes = 256;
  using Page = std::vector<Cell>;

  bool is_ordered(const Thread& thread, const Stamp& stamp, uint32_t lanes) const;
  std::optional<std::string> collision(const Thread& thread, const Cell& cell, Access access) const;
  void note_read(const Thread& thread, Cell& cell) const;

  Scope scope_;
  std::vector<std::unique_ptr<Page>> pages_;
};

}  // namespace qlora::emulation
