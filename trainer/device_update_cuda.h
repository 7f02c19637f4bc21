#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/cuda/handles.h"
#include "core/cuda/paged_arena_cuda.h"
#include "trainer/device_update_backend.h"
#include "trainer/fused_update_backend.h"
#include "trainer/gradient_norm_backend.h"
#include "trainer/state_plan.h"

namespace qlora::trainer::cuda {

/// DeviceOptimizer on a device: the norm of all gradients, then one fused update, whatever the
/// number of tensors. 8-bit states lie in one arena, 32-bit states always stay on the device.
///   Scalars   what changes from step to step lies in device memory (UpdateScalars); the host reads
///             norm and applied back, once a step
///   Paging    chunk c + 2 is prefetched before the update of chunk c is queued; where the device
///   is
///             short of memory chunk c is evicted after its update, else it stays
///   Stream    its own, which the caller's is joined to by events on both sides: the default
///   stream,
///             which is libtorch's, cannot be captured
///   Graph     where nothing is paged, the second step is captured and from then on replayed, also
///             with tensors at other addresses: they stand in tables. A tensor more or less without
///             a gradient, or another loss, begins anew; where capture fails, a step is queued call
///             by call
class DeviceUpdate final : public DeviceOptimizer {
 public:
  static constexpr size_t kLookAhead = 2;  // chunks on their way before the one in work

  DeviceUpdate(std::span<const int64_t> counts, int device,
               DeviceStates states = DeviceStates::kPaged8bit);

  void step(std::span<const UpdateTensor> tensors, const AdamwStep& step, float unscale,
            double max_norm, const float* loss, void* stream) override;
  UpdateScalars result() const override;
  StateArrays states(size_t tensor) const override;
  bool is_paged() const override { return arena_.is_paged(); }
  bool replays() const { return graph_.get() != nullptr; }
  int64_t paged_bytes() const override { return static_cast<int64_t>(plan_.bytes); }
  int64_t unpaged_bytes() const;
  qlora::cuda::PagingStats paging_stats() override { return arena_.stats(); }

 private:
  using Graph = qlora::cuda::Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
  void upload_tables(std::span<const UpdateTensor> tensors, cudaStream_t stream);
  std::vector<Adamw8Tensor> tensors8(std::span<const UpdateTensor> tensors) const;
  std::vector<Adamw32Tensor> tensors32(std::span<const UpdateTensor> tensors) const;
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
  qlora::cuda::Stream own_;
  qlora::cuda::Event called_, done_;
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
