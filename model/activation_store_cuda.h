#pragma once

#include <cuda_runtime_api.h>

#include <vector>

#include "core/cuda/handles.h"
#include "model/activation_store_backend.h"

namespace qlora::model::cuda {

/// ActivationStore on a device: pinned pieces, a side stream, and two events a piece.
class PinnedStore final : public ActivationStore {
 public:
  size_t put(const void* from, size_t bytes, void* stream) override;
  void settle(size_t number, void* stream) override;
  void fetch(size_t number, void* to, void* stream) override;
  void acquire(size_t number, void* stream) override;
  void release(size_t number) override;
  int64_t pinned_bytes() const override;

 private:
  struct Piece {
    qlora::cuda::PinnedMemory memory;
    size_t capacity;
    size_t bytes;  // of what it holds
    bool in_use;
    qlora::cuda::Event ready;   // of the caller's stream, before either copy
    qlora::cuda::Event copied;  // of the side stream, after it
  };
  /// Lets the side stream begin where `stream` is now.
  void follow(Piece& piece, void* stream);
  size_t free_piece(size_t bytes);

  std::vector<Piece> pieces_;
  qlora::cuda::Stream side_;
};

}  // namespace qlora::model::cuda
