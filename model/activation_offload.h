#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace qlora::model {

/// The inputs of a pass's checkpointed blocks, in pinned host memory between forward and backward
/// (model/activation_store_backend.h). In the backward the input of the block before is on its way
/// while a block is computed again.
///   Memory    on the device at most two inputs on their way, besides the one in work
class ActivationOffload {
 public:
  /// throws    DeviceError where the CUDA module is not there
  explicit ActivationOffload(torch::Device device);
  ~ActivationOffload();
  ActivationOffload(const ActivationOffload&) = delete;
  ActivationOffload& operator=(const ActivationOffload&) = delete;

  /// Queues the input of the next block on its way out; returns its place.
  ///   h         on the device, contiguous; kept until the next call, or a get
  size_t put(const torch::Tensor& h);
  /// The input at a place, for work on libtorch's current stream; asked for once, the last place
  /// first. The one before it is queued on its way back.
  torch::Tensor get(size_t place);

 private:
  struct Entry;
  void fetch(Entry& entry);
  void settle_last();

  torch::Device device_;
  std::vector<Entry> entries_;
};

/// Pinned memory that offloaded activations of this process hold.
int64_t pinned_activation_bytes();

}  // namespace qlora::model
