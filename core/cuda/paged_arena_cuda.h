#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/cuda/handles.h"
#include "core/cuda/paging_stats.h"

namespace qlora::cuda {

/// When an arena's chunks go back to the host.
enum class Paging {
  kAlways,     // after each use
  kWhenShort,  // after each use while the device is short of memory; else they stay there
  kNever,      // plain device memory
};

/// Memory that lives on the host and visits the device chunk by chunk: prefetched on a side stream
/// before it is used, evicted after. Nothing is left to page faults.
///   Cost      moving pages of managed memory holds up the driver (docs/decisions.md), so that
///             chunks had better stay where there is room
///   Order     prefetch(c) and the eviction of c run on the side stream in the order of the calls,
///             so that a chunk asked for later cannot crowd out one in use; acquire(c) lets a
///             stream wait for the prefetch, release(c) lets the eviction wait for the stream
///   Fallback  with Paging::kNever, or where the device has no concurrent managed access, plain
///             device memory: everything is always there, nothing is moved, the calls do nothing
class PagedArena {
 public:
  /// Fewest bytes of a chunk: a prefetch of less costs more than it moves.
  static constexpr size_t kLeastChunkBytes = size_t{2} << 20;

  struct Chunk {
    size_t offset;
    size_t bytes;
  };

  /// All bytes are 0.
  ///   chunks    that do not overlap, each at least kLeastChunkBytes unless it is the only one
  ///   throws    ValueError for other chunks; DeviceError
  PagedArena(size_t bytes, std::vector<Chunk> chunks, int device, Paging paging = Paging::kAlways);

  std::byte* data() const;
  bool is_paged() const { return is_paged_; }
  size_t chunk_count() const { return chunks_.size(); }

  /// With Paging::kWhenShort: looks how much memory the device has left. Until the next look chunks
  /// are evicted where that is less than a sixteenth of all.
  void look_for_room();

  /// Queues the move of a chunk to the device; nothing where it is there or on its way.
  void prefetch(size_t chunk);
  /// Lets the later work of `stream` use a chunk; prefetches it first where nobody has.
  void acquire(size_t chunk, cudaStream_t stream);
  /// Queues the move back, after what `stream` has queued so far; nothing where the chunk may stay.
  void release(size_t chunk, cudaStream_t stream);

  /// Waits for the side stream alone: all of the arena is on the host then, where it is paged.
  void wait_for_host() const;

  /// Counts the stalls that are over; waits for nothing.
  PagingStats stats();

 private:
  enum class Where { kHost, kDevice };
  struct State {
    Where where = Where::kHost;
    Event arrived, used;
    TimedEvent before_wait, after_wait;
    bool has_waited = false;  // the timed events are recorded and not yet counted
  };
  void count_stall(State& state);

  std::vector<Chunk> chunks_;
  int device_;
  Paging paging_;
  bool is_paged_;
  bool is_evicting_;
  ManagedMemory managed_;
  DeviceMemory plain_;
  std::vector<State> states_;
  Stream side_;
  PagingStats stats_;
};

}  // namespace qlora::cuda
