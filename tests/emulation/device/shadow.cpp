#include "tests/emulation/device/shadow.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/emulation/device/machine.h"

namespace qlora::emulation {

void Epochs::start_launch() {
  launch_begin_ = ++now_;
  block_begins_.clear();
  released_.clear();
}

void Epochs::start_block() {
  block_begin_ = ++now_;
  block_begins_.push_back(block_begin_);
  acquired_.clear();
}

bool Epochs::has_acquired(uint32_t epoch) const {
  const auto behind = std::upper_bound(block_begins_.begin(), block_begins_.end(), epoch);
  return behind != block_begins_.begin() && acquired_.contains(*(behind - 1));
}

void Epochs::meet(uint64_t address, bool has_released) {
  std::set<uint32_t>& released = released_[address];
  acquired_.insert(released.begin(), released.end());
  if (!has_released) return;
  released.insert(acquired_.begin(), acquired_.end());
  released.insert(block_begin_);
}

void Shadow::resize(size_t bytes) {
  pages_.resize((bytes + kPageBytes - 1) / kPageBytes);
}

/// lanes: which of the stamp's warp; 0: several warps.
bool Shadow::is_ordered(const Thread& thread, const Stamp& stamp, uint32_t lanes) const {
  const Epochs& epochs = machine().epochs();
  if (stamp.epoch == epochs.now()) {
    if (lanes == 0 || stamp.thread / kLanes != thread.warp()) return false;
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      if ((lanes >> lane & 1) == 0 || lane == thread.lane()) continue;
      if (thread.seen[lane] < stamp.clock + 1) return false;
    }
    return true;
  }
  if (stamp.epoch >= epochs.block_begin() || stamp.epoch < epochs.launch_begin()) return true;
  if (scope_ == Scope::kBlock) return true;
  return epochs.has_acquired(stamp.epoch);
}

std::optional<std::string> Shadow::collision(const Thread& thread, const Cell& cell,
                                             Access access) const {
  const bool is_atomic = access == Access::kAtomic || access == Access::kAtomicRead;
  const bool is_write = access == Access::kWrite || access == Access::kAtomic;
  const auto describe = [&](const char* what, uint32_t epoch, uint32_t other) {
    const bool is_other_block = epoch < machine().epochs().block_begin();
    return is_other_block ? fmt::format("{} another block", what)
                          : fmt::format("{} thread {}", what, other);
  };
  if (cell.write.epoch != 0 && !(is_atomic && cell.is_atomic_write) &&
      !is_ordered(thread, cell.write, 1u << cell.write.thread % kLanes)) {
    return describe(
        is_write ? "a race: writes what was written by" : "a race: reads what was written by",
        cell.write.epoch, cell.write.thread);
  }
  if (!is_write) return std::nullopt;
  if (cell.read.epoch != 0 && !is_ordered(thread, cell.read, cell.reader_lanes)) {
    return describe("a race: writes what was read by", cell.read.epoch, cell.read.thread);
  }
  if (cell.other_block_read >= machine().epochs().launch_begin() &&
      !machine().epochs().has_acquired(cell.other_block_read)) {
    return describe("a race: writes what was read by", cell.other_block_read, 0);
  }
  return std::nullopt;
}

void Shadow::note_read(const Thread& thread, Cell& cell) const {
  const Epochs& epochs = machine().epochs();
  Stamp& read = cell.read;
  const uint32_t lane = 1u << thread.lane(), clock = thread.seen[thread.lane()];
  // Whoever comes after this read comes after those that it comes after.
  const bool supersedes = read.epoch == epochs.now() && is_ordered(thread, read, cell.reader_lanes);
  if (read.epoch == epochs.now() && !supersedes) {
    const bool is_same_warp = cell.reader_lanes != 0 && read.thread / kLanes == thread.warp();
    cell.reader_lanes = is_same_warp ? cell.reader_lanes | lane : 0;
    read.clock = std::max(read.clock, clock);
    return;
  }
  if (scope_ == Scope::kDevice && read.epoch >= epochs.launch_begin() &&
      read.epoch < epochs.block_begin()) {
    cell.other_block_read = read.epoch;
  }
  read = {epochs.now(), clock, thread.rank};
  cell.reader_lanes = lane;
}

std::optional<std::string> Shadow::note(const Thread& thread, size_t offset, size_t bytes,
                                        Access access) {
  for (size_t i = offset; i < offset + bytes; ++i) {
    std::unique_ptr<Page>& page = pages_[i / kPageBytes];
    if (page == nullptr) page = std::make_unique<Page>(kPageBytes);
    Cell& cell = (*page)[i % kPageBytes];
    if (auto found = collision(thread, cell, access)) return found;
    if (access == Access::kRead) {
      note_read(thread, cell);
    } else if (access == Access::kWrite || access == Access::kAtomic) {
      cell.write = {machine().epochs().now(), thread.seen[thread.lane()], thread.rank};
      cell.is_atomic_write = access == Access::kAtomic;
    }
  }
  return std::nullopt;
}

}  // namespace qlora::emulation
