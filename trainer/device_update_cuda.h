#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/cuda/handles.h"
#include "core/cuda/paged_arena_cuda.h"
#include "trainer/fused_update_backend.h"
#include "trainer/gradient_norm_backend.h"
#include "trainer/state_plan.h"

namespace qlora::trainer::cuda {

/// A parameter of the update; its states are DeviceUpdate's.
struct UpdateTensor {
  float* parameter;       // [count], device memory
  const float* gradient;  // [count], device memory
  int64_t count;
};

/// The optimizer's step on a device: the norm of all gradients, then one fused update, whatever the
/// number of tensors. Tensors of at least kAdamw8MinElements have 8-bit states in one paged arena,
/// the others 32-bit states that always stay on the device.
///   Scalars   what changes from step to step lies in device memory (UpdateScalars); the host reads
///             norm and applied back, once a step
///   Paging    chunk c + 2 is prefetched before the update of chunk c is queued, chunk c is evicted
///             after its update
///   Graph     where nothing is paged and no pointer has changed since the step before, the step is
///             captured and from then on replayed; where capture fails, it is queued call by call
class DeviceUpdate {
 public:
  static constexpr size_t kLookAhead = 2;  // chunks on their way before the one in work

  /// counts    elements of each tensor, in the order of step's
  DeviceUpdate(std::span<const int64_t> counts, int device);

  /// Queues one step on `stream`, the same one every time. Waits for the step before.
  ///   tensors   as many as counts, of those sizes
  ///   loss      device memory, or null
  ///   throws    ShapeError for other tensors; DeviceError
  void step(std::span<const UpdateTensor> tensors, const AdamwStep& step, float unscale,
            double max_norm, const float* loss, cudaStream_t stream);

  /// Waits for the last step: norm, clip and applied are its results.
  UpdateScalars result() const;

  bool is_paged() const { return arena_.is_paged(); }
  bool replays() const { return graph_.get() != nullptr; }
  int64_t paged_bytes() const { return static_cast<int64_t>(plan_.bytes); }
  int64_t unpaged_bytes() const;
  qlora::cuda::PagingStats paging_stats() { return arena_.stats(); }

 private:
  using Graph = qlora::cuda::Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
  void upload_tables(std::span<const UpdateTensor> tensors, cudaStream_t stream);
  void queue(const float* loss, cudaStream_t stream);
  void queue_chunks(cudaStream_t stream);
  bool capture(const float* loss, cudaStream_t stream);
  UpdateScalars* device_scalars() const { return static_cast<UpdateScalars*>(scalars_.get()); }

  std::vector<int64_t> counts_;
  std::vector<size_t> of8_, of32_;  // numbers of the tensors with either kind of state
  StatePlan plan_;
  qlora::cuda::PagedArena arena_;
  qlora::cuda::DeviceMemory states32_, tables_, scratch_, scalars_;
  qlora::cuda::PinnedMemory staging_;  // two UpdateScalars: what goes there, what comes back
  qlora::cuda::Event done_;
  Graph graph_;
  bool may_capture_ = true;

  // Of tables_, as they were uploaded last.
  std::vector<UpdateTensor> uploaded_;
  std::vector<std::byte> table_bytes_;
  const float* captured_loss_ = nullptr;
  TensorTable<GradientRange> gradients_ = {};
  std::vector<TensorTable<Adamw8Tensor>> chunks_;
  TensorTable<Adamw32Tensor> tensors32_ = {};
};

}  // namespace qlora::trainer::cuda
