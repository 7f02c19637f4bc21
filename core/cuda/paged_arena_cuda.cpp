#include "core/cuda/paged_arena_cuda.h"

#include <cstring>
#include <utility>

#include "core/error.h"

namespace qlora::cuda {
namespace {

constexpr size_t kRoom = 16;  // a device with less than this part of its memory free is short of it

bool has_concurrent_access(int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, cudaDevAttrConcurrentManagedAccess, device));
  return value != 0;
}

void check_chunks(const std::vector<PagedArena::Chunk>& chunks, size_t bytes) {
  size_t end = 0;
  for (const PagedArena::Chunk& chunk : chunks) {
    QLORA_CHECK(chunk.offset >= end && chunk.bytes <= bytes && chunk.offset <= bytes - chunk.bytes,
                ValueError, "[cuda] a chunk is [{}, {}), allowed: inside [{}, {})", chunk.offset,
                chunk.offset + chunk.bytes, end, bytes);
    QLORA_CHECK(chunk.bytes >= PagedArena::kLeastChunkBytes || chunks.size() == 1, ValueError,
                "[cuda] a chunk has {} bytes, allowed at least {}", chunk.bytes,
                PagedArena::kLeastChunkBytes);
    end = chunk.offset + chunk.bytes;
  }
}

}  // namespace

PagedArena::PagedArena(size_t bytes, std::vector<Chunk> chunks, int device, Paging paging)
    : chunks_(std::move(chunks)),
      device_(device),
      paging_(paging),
      is_paged_(paging != Paging::kNever && has_concurrent_access(device)),
      is_evicting_(paging == Paging::kAlways) {
  check_chunks(chunks_, bytes);
  if (bytes == 0) return;
  if (is_paged_) {
    managed_ = ManagedMemory(bytes);
    std::memset(managed_.get(), 0, bytes);  // by the host: the pages begin there
    states_.resize(chunks_.size());
  } else {
    plain_ = DeviceMemory(bytes);
    check(cudaMemset(plain_.get(), 0, bytes));
  }
}

std::byte* PagedArena::data() const {
  return static_cast<std::byte*>(is_paged_ ? managed_.get() : plain_.get());
}

void PagedArena::look_for_room() {
  if (!is_paged_ || paging_ != Paging::kWhenShort) return;
  size_t free_bytes = 0, total_bytes = 0;
  check(cudaMemGetInfo(&free_bytes, &total_bytes));
  is_evicting_ = free_bytes < total_bytes / kRoom;
}

void PagedArena::prefetch(size_t chunk) {
  if (!is_paged_) return;
  State& state = states_.at(chunk);
  if (state.where == Where::kDevice) return;
  managed_.prefetch(chunks_[chunk].offset, chunks_[chunk].bytes, device_, side_.get());
  state.arrived.record(side_.get());
  state.where = Where::kDevice;
  stats_.bytes_in += static_cast<int64_t>(chunks_[chunk].bytes);
}

void PagedArena::acquire(size_t chunk, cudaStream_t stream) {
  if (!is_paged_) return;
  prefetch(chunk);
  State& state = states_[chunk];
  count_stall(state);
  state.before_wait.record(stream);
  state.arrived.block(stream);
  state.after_wait.record(stream);
  state.has_waited = true;
}

void PagedArena::release(size_t chunk, cudaStream_t stream) {
  if (!is_paged_ || !is_evicting_) return;
  State& state = states_.at(chunk);
  if (state.where == Where::kHost) return;
  state.used.record(stream);
  state.used.block(side_.get());
  managed_.prefetch(chunks_[chunk].offset, chunks_[chunk].bytes, cudaCpuDeviceId, side_.get());
  state.where = Where::kHost;
  stats_.bytes_out += static_cast<int64_t>(chunks_[chunk].bytes);
}

void PagedArena::wait_for_host() const {
  if (is_paged_) side_.synchronize();
}

PagingStats PagedArena::stats() {
  for (State& state : states_) count_stall(state);
  return stats_;
}

void PagedArena::count_stall(State& state) {
  if (!state.has_waited) return;
  const cudaError_t status = cudaEventQuery(state.after_wait.get());
  if (status == cudaErrorNotReady) return;
  check(status);
  float ms = 0;
  check(cudaEventElapsedTime(&ms, state.before_wait.get(), state.after_wait.get()));
  stats_.stall_ms += ms;
  state.has_waited = false;
}

}  // namespace qlora::cuda
