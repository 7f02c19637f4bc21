#pragma once

#include "tests/emulation/device/arithmetic.h"
#include "tests/emulation/device/bits.h"
#include "tests/emulation/device/machine.h"

// Barriers and what the lanes of a warp do together. Semantics: PTX ISA 9.0, section 9.7.13.

namespace qlora::emulation {

inline void block_barrier(Thread& t, int line) {
  machine().wait_for_block(t, false, line);
}
// __syncthreads_count(), __syncthreads_and() and __syncthreads_or().
inline b32 barrier_popc(Thread& t, bool value, int line) {
  return machine().wait_for_block(t, value, line).agreed;
}
inline bool barrier_and(Thread& t, bool value, int line) {
  const BarrierResult result = machine().wait_for_block(t, value, line);
  return result.agreed == result.arrived;
}
inline bool barrier_or(Thread& t, bool value, int line) {
  return machine().wait_for_block(t, value, line).agreed != 0;
}
inline void warp_barrier(Thread& t, b32 mask, int line) {
  machine().wait_for_warp(t, WarpCall::kBarrier, mask, 0, 0, line);
}
/// __threadfence(): what the block wrote counts as released at its next atomic operation.
inline void release(Thread& t) {
  t.has_released = true;
}

inline b32 lane_mask_eq(const Thread& t) {
  return b32{1} << t.lane();
}
inline b32 lane_mask_lt(const Thread& t) {
  return lane_mask_eq(t) - 1;
}
inline b32 lane_mask_le(const Thread& t) {
  return lane_mask_lt(t) | lane_mask_eq(t);
}
inline b32 lane_mask_gt(const Thread& t) {
  return ~lane_mask_le(t);
}
inline b32 lane_mask_ge(const Thread& t) {
  return ~lane_mask_lt(t);
}

/// Value of another lane; where that lies outside the segment, the lane's own and is_valid false.
inline b32 shuffle_from(Thread& t, b32 value, int source, bool is_inside, b32 mask, bool& is_valid,
                        int line) {
  is_valid = is_inside;
  const b32 lane = is_inside ? static_cast<b32>(source) : t.lane();
  return static_cast<b32>(machine().wait_for_warp(t, WarpCall::kShuffle, mask, value, lane, line));
}

// `clamp` holds the segment mask in bits 8 to 12 and the clamp in bits 0 to 4.
struct Segment {
  int lane, first, last;
  b32 mask;
  Segment(const Thread& t, b32 clamp) : lane(static_cast<int>(t.lane())), mask(clamp >> 8 & 31) {
    first = static_cast<int>(static_cast<b32>(lane) & mask);
    last = static_cast<int>((static_cast<b32>(lane) & mask) | (clamp & 31 & ~mask));
  }
};
inline b32 shuffle_up(Thread& t, b32 value, b32 by, b32 clamp, b32 mask, bool& is_valid, int line) {
  const Segment s(t, clamp);
  const int source = s.lane - static_cast<int>(by & 31);
  return shuffle_from(t, value, source, source >= s.last, mask, is_valid, line);
}
inline b32 shuffle_down(Thread& t, b32 value, b32 by, b32 clamp, b32 mask, bool& is_valid,
                        int line) {
  const Segment s(t, clamp);
  const int source = s.lane + static_cast<int>(by & 31);
  return shuffle_from(t, value, source, source <= s.last, mask, is_valid, line);
}
inline b32 shuffle_bfly(Thread& t, b32 value, b32 by, b32 clamp, b32 mask, bool& is_valid,
                        int line) {
  const Segment s(t, clamp);
  const int source = s.lane ^ static_cast<int>(by & 31);
  return shuffle_from(t, value, source, source <= s.last, mask, is_valid, line);
}
inline b32 shuffle_idx(Thread& t, b32 value, b32 index, b32 clamp, b32 mask, bool& is_valid,
                       int line) {
  const Segment s(t, clamp);
  const int source = s.first | static_cast<int>(index & 31 & ~s.mask);
  return shuffle_from(t, value, source, source <= s.last, mask, is_valid, line);
}

inline b32 vote_ballot(Thread& t, bool value, b32 mask, int line) {
  return static_cast<b32>(machine().wait_for_warp(t, WarpCall::kVote, mask, value, 0, line));
}
inline bool vote_any(Thread& t, bool value, b32 mask, int line) {
  return vote_ballot(t, value, mask, line) != 0;
}
inline bool vote_all(Thread& t, bool value, b32 mask, int line) {
  return vote_ballot(t, value, mask, line) == mask;
}

/// f over the values of all lanes of the mask, in all of them.
template <class T, class F>
T reduce_lanes(Thread& t, T value, b32 mask, int line, F f) {
  machine().wait_for_warp(t, WarpCall::kReduce, mask, static_cast<b64>(as<b32>(value)), 0, line);
  T result{};
  bool is_first = true;
  for (b32 lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const T other = as<T>(static_cast<b32>(machine().lane_of(t, lane).given));
    result = is_first ? other : f(result, other);
    is_first = false;
  }
  // Nobody goes on, and gives another value, before all have read.
  machine().wait_for_warp(t, WarpCall::kReduce, mask, t.given, 0, line);
  return result;
}
template <class T>
T reduce_add(Thread& t, T value, b32 mask, int line) {
  return reduce_lanes(t, value, mask, line, [](T a, T b) { return add(a, b); });
}
template <class T>
T reduce_min(Thread& t, T value, b32 mask, int line) {
  return reduce_lanes(t, value, mask, line, [](T a, T b) { return minimum(a, b); });
}
template <class T>
T reduce_max(Thread& t, T value, b32 mask, int line) {
  return reduce_lanes(t, value, mask, line, [](T a, T b) { return maximum(a, b); });
}
template <class T>
T reduce_and(Thread& t, T value, b32 mask, int line) {
  return reduce_lanes(t, value, mask, line, [](T a, T b) { return bit_and(a, b); });
}
template <class T>
T reduce_or(Thread& t, T value, b32 mask, int line) {
  return reduce_lanes(t, value, mask, line, [](T a, T b) { return bit_or(a, b); });
}
template <class T>
T reduce_xor(Thread& t, T value, b32 mask, int line) {
  return reduce_lanes(t, value, mask, line, [](T a, T b) { return bit_xor(a, b); });
}

}  // namespace qlora::emulation
