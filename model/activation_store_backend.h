#pragma once

#include <cstddef>
#include <cstdint>

namespace qlora::model {

/// Activations that wait in pinned host memory between forward and backward. They leave and come
/// back on a side stream, beside the work of the caller's.
///   Order     put: the copy out waits for what the caller's stream has queued; settle: the
///             caller's stream waits for that copy, so that the memory may be used again;
///             fetch: the copy back waits for what the caller's stream has queued, the last work on
///             the memory it goes to; acquire: the caller's stream waits for that copy
///   Memory    pinned memory is kept and used again, the smallest free piece that is large enough
/// A stream is a cudaStream_t.
class ActivationStore {
 public:
  virtual ~ActivationStore() = default;

  /// Queues the copy of device memory; returns the number to ask for it by.
  virtual size_t put(const void* from, size_t bytes, void* stream) = 0;
  virtual void settle(size_t number, void* stream) = 0;
  /// Queues the copy back, of as many bytes as were put.
  virtual void fetch(size_t number, void* to, void* stream) = 0;
  virtual void acquire(size_t number, void* stream) = 0;
  /// Gives the number's memory to the next put. Any time after put: copies stay in order.
  virtual void release(size_t number) = 0;

  virtual int64_t pinned_bytes() const = 0;  // held, in use or not
};

namespace cuda {
/// The caller owns what is returned.
ActivationStore* make_activation_store();
}  // namespace cuda

}  // namespace qlora::model
