#pragma once

#include <cstdint>
#include <span>

#include "core/cuda/paging_stats.h"
#include "trainer/adamw_math.h"
#include "trainer/update_scalars.h"

namespace qlora::trainer {

/// How the states of tensors of at least kAdamw8MinElements are held; smaller ones have 32 bits.
enum class DeviceStates {
  kPaged8bit,  // in managed memory that visits the device chunk by chunk
  k8bit,       // on the device
  k32bit,      // on the device, whatever the tensor's size
};

/// A parameter of an update; its states are the optimizer's.
struct UpdateTensor {
  float* parameter;       // [count], device memory
  const float* gradient;  // [count], device memory; null: this step leaves the tensor alone
  int64_t count;
};

/// States of one tensor, in memory that the device sees.
struct StateArrays {
  bool is_8bit;
  void* mean;            // [count] u8, or f32
  void* square;          //
  float* mean_absmax;    // [ceil(count / 256)], or null with 32 bits
  float* square_absmax;  //
};

/// AdamW with norm, unscaling, clipping and finite check, for all tensors of a run at once. It
/// holds the states.
class DeviceOptimizer {
 public:
  virtual ~DeviceOptimizer() = default;

  /// Queues one step behind what `stream` (cudaStream_t) has; later work of it comes after the
  /// step. Waits for the step before.
  ///   tensors   as many as at the start, of those sizes
  ///   unscale   1 / loss scale
  ///   max_norm  gradients are scaled down to it; 0: never
  ///   loss      device memory, or null: where it is not finite nothing is updated
  ///   throws    ShapeError for other tensors; DeviceError
  virtual void step(std::span<const UpdateTensor> tensors, const AdamwStep& step, float unscale,
                    double max_norm, const float* loss, void* stream) = 0;

  /// Waits for the last step: norm, clip and applied are its results.
  virtual UpdateScalars result() const = 0;

  /// Where the states of a tensor are; work on them belongs on the stream of the steps.
  virtual StateArrays states(size_t tensor) const = 0;

  virtual bool is_paged() const = 0;
  virtual int64_t paged_bytes() const = 0;
  virtual qlora::cuda::PagingStats paging_stats() = 0;
};

namespace cuda {
/// The caller owns what is returned. All states begin as zeros.
///   counts    elements of each tensor, in the order of step's
DeviceOptimizer* make_device_optimizer(std::span<const int64_t> counts, DeviceStates states,
                                       int device);
}  // namespace cuda

}  // namespace qlora::trainer
