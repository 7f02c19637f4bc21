#include "model/activation_store_cuda.h"

namespace qlora::model::cuda {

using qlora::cuda::check;

size_t PinnedStore::put(const void* from, size_t bytes, void* stream) {
  const size_t number = free_piece(bytes);
  Piece& piece = pieces_[number];
  piece.bytes = bytes;
  piece.in_use = true;
  follow(piece, stream);
  check(cudaMemcpyAsync(piece.memory.get(), from, bytes, cudaMemcpyDeviceToHost, side_.get()));
  piece.copied.record(side_.get());
  return number;
}

void PinnedStore::settle(size_t number, void* stream) {
  pieces_.at(number).copied.block(static_cast<cudaStream_t>(stream));
}

void PinnedStore::fetch(size_t number, void* to, void* stream) {
  Piece& piece = pieces_.at(number);
  follow(piece, stream);
  check(cudaMemcpyAsync(to, piece.memory.get(), piece.bytes, cudaMemcpyHostToDevice, side_.get()));
  piece.copied.record(side_.get());
}

void PinnedStore::acquire(size_t number, void* stream) {
  pieces_.at(number).copied.block(static_cast<cudaStream_t>(stream));
}

void PinnedStore::release(size_t number) {
  pieces_.at(number).in_use = false;
}

int64_t PinnedStore::pinned_bytes() const {
  size_t bytes = 0;
  for (const Piece& piece : pieces_) bytes += piece.capacity;
  return static_cast<int64_t>(bytes);
}

void PinnedStore::follow(Piece& piece, void* stream) {
  piece.ready.record(static_cast<cudaStream_t>(stream));
  piece.ready.block(side_.get());
}

size_t PinnedStore::free_piece(size_t bytes) {
  size_t best = pieces_.size();
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const Piece& piece = pieces_[i];
    if (piece.in_use || piece.capacity < bytes) continue;
    if (best == pieces_.size() || piece.capacity < pieces_[best].capacity) best = i;
  }
  if (best == pieces_.size()) {
    pieces_.push_back({.memory = qlora::cuda::PinnedMemory(bytes),
                       .capacity = bytes,
                       .bytes = 0,
                       .in_use = false,
                       .ready = {},
                       .copied = {}});
  }
  return best;
}

ActivationStore* make_activation_store() {
  return new PinnedStore;
}

}  // namespace qlora::model::cuda
