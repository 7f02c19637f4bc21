#include "tests/emulation/device/machine.h"

#include <cxxabi.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>

namespace qlora::emulation {

Machine& machine() {
  static Machine the_one;
  return the_one;
}

std::string demangle(const char* name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : name;
}

void fail(const Thread& thread, int line, const std::string& what) {
  const Block& block = *thread.block;
  const std::string text = fmt::format(
      "[emulation] {}; in {} at PTX line {}, block ({}, {}, {}) of ({}, {}, {}), thread {} of {}\n",
      what, demangle(block.entry->name), line, block.index.x, block.index.y, block.index.z,
      block.grid.x, block.grid.y, block.grid.z, thread.rank, block.dim.count());
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
  std::abort();
}

/// xorshift64* (Vigna, arXiv:1402.6246).
uint64_t Machine::random_below(uint64_t bound) {
  if (seed_ == 0) return 0;
  random_ ^= random_ >> 12, random_ ^= random_ << 25, random_ ^= random_ >> 27;
  return (random_ * 0x2545F4914F6CDD1Dull >> 11) % bound;
}

template <class T>
void Machine::shuffle(std::vector<T>& items) {
  if (seed_ == 0) return;
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random_below(i)]);
}

/// Fibers live on from launch to launch; each round is one thread of one block.
void Machine::fiber_main() {
  for (;;) {
    Machine& all = machine();
    Thread& thread = *all.running_;
    happens_after(&all.begin_mark_);
    thread.block->entry->function(thread, thread.block->parameters);
    happens_before(&all.end_mark_);
    thread.state = State::kDone;
    --all.live_;
    suspend(*thread.fiber);
  }
}

void Machine::prepare(const Launch& launch) {
  if (threads_.empty()) {
    threads_.resize(kMaxThreads);
    for (Thread& thread : threads_) thread.fiber = create_fiber(&Machine::fiber_main);
  }
  thread_count_ = launch.block.count();
  order_.resize(thread_count_);
  std::iota(order_.begin(), order_.end(), 0u);
  const size_t dynamic_shared = (launch.entry->shared_bytes + 15) / 16 * 16;
  const size_t shared_bytes = launch.dynamic_shared_bytes == 0
                                  ? launch.entry->shared_bytes
                                  : dynamic_shared + launch.dynamic_shared_bytes;
  shared_.resize(shared_bytes + 16);
  shared_shadow_.resize(shared_bytes);
  void* aligned = shared_.data();
  size_t space = shared_.size();
  std::align(16, shared_bytes, aligned, space);
  block_ = {.entry = launch.entry,
            .index = {},
            .dim = launch.block,
            .grid = launch.grid,
            .parameters = launch.parameters.data(),
            .shared = static_cast<char*>(aligned),
            .shared_bytes = shared_bytes,
            .dynamic_shared = dynamic_shared,
            .bytes_read = 0,
            .bytes_written = 0};
}

LaunchCounts Machine::run(const Launch& launch) {
  prepare(launch);
  epochs_.start_launch();
  const Index& grid = launch.grid;
  std::vector<uint64_t> blocks(grid.count());
  std::iota(blocks.begin(), blocks.end(), uint64_t{0});
  shuffle(blocks);
  LaunchCounts counts;
  for (const uint64_t i : blocks) {
    block_.index = {static_cast<uint32_t>(i % grid.x), static_cast<uint32_t>(i / grid.x % grid.y),
                    static_cast<uint32_t>(i / grid.x / grid.y)};
    run_block();
    const uint64_t bytes = block_.bytes_read + block_.bytes_written;
    counts.least_block_bytes = std::min(counts.least_block_bytes, bytes);
    counts.most_block_bytes = std::max(counts.most_block_bytes, bytes);
    counts.bytes_read += block_.bytes_read;
    counts.bytes_written += block_.bytes_written;
  }
  return counts;
}

void Machine::start_block() {
  epochs_.start_block();
  block_.bytes_read = block_.bytes_written = 0;
  std::memset(block_.shared, 0xFF, block_.shared_bytes);  // NaN in every float format
  live_ = thread_count_;
  at_barrier_ = agreed_ = 0;
  for (uint32_t i = 0; i < thread_count_; ++i) {
    Thread& thread = threads_[i];
    const Index& dim = block_.dim;
    thread.index = {i % dim.x, i / dim.x % dim.y, i / dim.x / dim.y};
    thread.rank = i;
    thread.block = &block_;
    thread.state = State::kReady;
    thread.seen = {};
    thread.has_released = false;
  }
}

void Machine::run_block() {
  start_block();
  happens_before(&begin_mark_);
  while (live_ > 0) {
    bool has_moved = false;
    shuffle(order_);
    for (const uint32_t i : order_) {
      if (threads_[i].state != State::kReady) continue;
      running_ = &threads_[i];
      resume(*threads_[i].fiber);
      has_moved = true;
    }
    if (live_ > 0 && at_barrier_ == live_) {  // exited threads count as arrived, as on hardware
      release_barrier();
      has_moved = true;
    }
    if (has_moved) continue;
    for (const uint32_t i : order_) {
      if (threads_[i].state != State::kDone)
        fail(threads_[i], threads_[i].line, "deadlock: waits for ever");
    }
  }
  happens_after(&end_mark_);
}

void Machine::release_barrier() {
  const Thread* first = nullptr;
  for (size_t i = 0; i < thread_count_; ++i) {
    Thread& thread = threads_[i];
    if (thread.state != State::kAtBarrier) continue;
    if (first != nullptr && thread.line != first->line) {
      fail(
          thread, thread.line,
          fmt::format("__syncthreads() met at different places, also at PTX line {}", first->line));
    }
    first = &thread;
    thread.state = State::kReady;
  }
  barrier_ = {static_cast<uint32_t>(at_barrier_), static_cast<uint32_t>(agreed_)};
  at_barrier_ = agreed_ = 0;
  epochs_.pass_barrier();
  happens_after(&arrive_mark_);
  happens_before(&leave_mark_);
}

BarrierResult Machine::wait_for_block(Thread& thread, bool value, int line) {
  thread.line = line;
  thread.state = State::kAtBarrier;
  ++at_barrier_;
  agreed_ += value ? 1 : 0;
  happens_before(&arrive_mark_);
  suspend(*thread.fiber);
  happens_after(&leave_mark_);
  return barrier_;  // of this one: the next is not passed before all have left it
}

uint64_t Machine::wait_for_warp(Thread& thread, WarpCall call, uint32_t mask, uint64_t given,
                                uint32_t source_lane, int line) {
  thread.call = call;
  thread.mask = mask;
  thread.given = given;
  thread.source_lane = source_lane;
  thread.line = line;
  thread.state = State::kInWarpCall;
  if ((mask >> thread.lane() & 1) == 0)
    fail(thread, line, "a warp call by a lane outside its mask");
  const bool is_barrier = call == WarpCall::kBarrier;  // only __syncwarp() orders memory
  if (is_barrier) happens_before(&warp_arrive_marks_[thread.warp()]);
  if (!answer_warp(thread)) suspend(*thread.fiber);
  if (is_barrier) happens_after(&warp_leave_marks_[thread.warp()]);
  return thread.received;
}

void Machine::check_lane(const Thread& thread, uint32_t lane) {
  const auto refuse = [&](const char* why) {
    fail(thread, thread.line, fmt::format("a warp mask names lane {}, which {}", lane, why));
  };
  if (thread.warp() * kLanes + lane >= thread_count_) refuse("does not exist");
  const Thread& other = lane_of(thread, lane);
  if (other.state == State::kDone) refuse("has exited");
  if (other.state != State::kInWarpCall) return;
  if (other.mask != thread.mask || other.call != thread.call || other.line != thread.line) {
    fail(thread, thread.line,
         fmt::format("lanes of one mask are at different warp calls, lane {} at PTX line {}", lane,
                     other.line));
  }
}

/// What the lanes of the mask have brought, as far as they have come.
Machine::WarpMeeting Machine::meet_warp(const Thread& thread) {
  WarpMeeting meeting = {.is_complete = true};
  uint32_t clock = 0;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    check_lane(thread, lane);
    const Thread& other = lane_of(thread, lane);
    meeting.is_complete = meeting.is_complete && other.state == State::kInWarpCall;
    if (other.given != 0) meeting.ballot |= 1u << lane;
    for (int i = 0; i < kLanes; ++i) meeting.seen[i] = std::max(meeting.seen[i], other.seen[i]);
    clock = std::max(clock, other.seen[lane]);
  }
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    if ((thread.mask >> lane & 1) != 0)
      meeting.seen[lane] = clock + 1;  // later than all that they did
  }
  return meeting;
}

/// Answers all lanes of the mask once the last has come; false as long as one is missing.
bool Machine::answer_warp(const Thread& thread) {
  const WarpMeeting meeting = meet_warp(thread);
  if (!meeting.is_complete) return false;
  const WarpCall call = thread.call;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    if ((thread.mask >> lane & 1) == 0) continue;
    Thread& other = lane_of(thread, lane);
    if (call == WarpCall::kShuffle && (thread.mask >> other.source_lane & 1) == 0) {
      fail(other, other.line,
           fmt::format("a shuffle reads lane {}, which is outside the mask", other.source_lane));
    }
    other.received =
        call == WarpCall::kShuffle ? lane_of(thread, other.source_lane).given : meeting.ballot;
    if (call == WarpCall::kBarrier) other.seen = meeting.seen;
    other.state = State::kReady;
  }
  if (call == WarpCall::kBarrier) {
    happens_after(&warp_arrive_marks_[thread.warp()]);
    happens_before(&warp_leave_marks_[thread.warp()]);
  }
  return true;
}

}  // namespace qlora::emulation
