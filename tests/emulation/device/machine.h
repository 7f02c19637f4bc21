#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/emulation/device/fiber.h"
#include "tests/emulation/device/registers.h"
#include "tests/emulation/device/shadow.h"

namespace qlora::emulation {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kMaxThreads = 1024;  // of a block

struct Index {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t{x} * y * z; }
};

struct Thread;

/// One .entry, translated.
struct Entry {
  struct Parameter {
    size_t offset, size_bytes;
  };
  const char* name;  // mangled
  void (*function)(Thread& thread, const char* parameters);
  size_t parameter_bytes;
  size_t shared_bytes;   // static
  uint32_t max_threads;  // of .maxntid; 0: not bounded
  std::vector<Parameter> parameters;
};

/// What the threads of a block have in common.
struct Block {
  const Entry* entry;
  Index index, dim, grid;
  const char* parameters;
  char* shared;
  size_t shared_bytes;                 // static and dynamic
  size_t dynamic_shared;               // where the dynamic part begins
  uint64_t bytes_read, bytes_written;  // of arrays
};

enum class State : uint8_t { kReady, kAtBarrier, kInWarpCall, kDone };
enum class WarpCall : uint8_t { kShuffle, kBarrier, kVote, kReduce };

/// One CUDA thread: a fiber with a stack of its own.
struct Thread {
  Index index;
  uint32_t rank;  // in the block
  Block* block;
  State state;
  int line;  // of the PTX, where it waits

  // The warp call that it waits in.
  WarpCall call;
  uint32_t mask, source_lane;
  uint64_t given, received;

  // Which accesses of its warp's lanes it has seen through warp barriers (shadow.h).
  std::array<uint32_t, kLanes> seen;
  bool has_released;
  bool carry;  // of add.cc and its kind

  Fiber* fiber;

  uint32_t lane() const { return rank % kLanes; }
  uint32_t warp() const { return rank / kLanes; }
};

struct Launch {
  const Entry* entry;
  Index grid, block;
  size_t dynamic_shared_bytes;
  std::vector<char> parameters;
};

/// What a launch did, for the log.
struct LaunchCounts {
  uint64_t bytes_read = 0, bytes_written = 0;  // of arrays
  uint64_t least_block_bytes = UINT64_MAX, most_block_bytes = 0;
};

/// What a barrier tells those who waited at it.
struct BarrierResult {
  uint32_t arrived;  // threads
  uint32_t agreed;   // those of them that came with true
};

/// Runs blocks one after another, each with its threads as fibers. Threads run until they wait or
/// end; a random number generator says in which order, and in which order the blocks come.
class Machine {
 public:
  /// seed 0: threads and blocks in order.
  void set_seed(uint64_t seed) { random_ = seed_ = seed; }

  LaunchCounts run(const Launch& launch);

  /// A random number below `bound`; 0 where the seed is.
  uint64_t random_below(uint64_t bound);

  // For running threads.
  BarrierResult wait_for_block(Thread& thread, bool value, int line);
  uint64_t wait_for_warp(Thread& thread, WarpCall call, uint32_t mask, uint64_t given,
                         uint32_t source_lane, int line);
  Thread& lane_of(const Thread& thread, uint32_t lane) {
    return threads_[thread.warp() * kLanes + lane];
  }
  Thread& running() { return *running_; }
  Epochs& epochs() { return epochs_; }
  Shadow& shared_shadow() { return shared_shadow_; }

 private:
  static void fiber_main();
  void prepare(const Launch& launch);
  void start_block();
  void run_block();
  void release_barrier();
  /// Lanes at one warp call.
  struct WarpMeeting {
    bool is_complete;
    uint32_t ballot = 0;
    std::array<uint32_t, kLanes> seen = {};  // after a warp barrier
  };
  void check_lane(const Thread& thread, uint32_t lane);
  WarpMeeting meet_warp(const Thread& thread);
  bool answer_warp(const Thread& thread);
  template <class T>
  void shuffle(std::vector<T>& items);

  std::vector<Thread> threads_;
  size_t thread_count_ = 0;
  Thread* running_ = nullptr;
  Block block_ = {};
  std::vector<char> shared_;
  std::vector<uint32_t> order_;
  size_t live_ = 0, at_barrier_ = 0, agreed_ = 0;
  BarrierResult barrier_ = {};
  uint64_t seed_ = 1, random_ = 1;
  Epochs epochs_;
  // What ThreadSanitizer ties orders to.
  char begin_mark_ = 0, end_mark_ = 0, arrive_mark_ = 0, leave_mark_ = 0;
  char warp_arrive_marks_[kMaxThreads / kLanes] = {}, warp_leave_marks_[kMaxThreads / kLanes] = {};
  Shadow shared_shadow_{Shadow::Scope::kBlock};
};

Machine& machine();

/// Ends the process: what, which kernel, PTX line, block and thread.
[[noreturn]] void fail(const Thread& thread, int line, const std::string& what);

std::string demangle(const char* name);

}  // namespace qlora::emulation
