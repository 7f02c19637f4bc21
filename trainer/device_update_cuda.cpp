#include "trainer/device_update_cuda.h"

#include <algorithm>
#include <type_traits>

#include "core/error.h"

namespace qlora::trainer::cuda {
namespace {

using qlora::cuda::check;

std::vector<size_t> tensors_where(const std::vector<int64_t>& counts, DeviceStates states,
                                  bool is_8bit) {
  std::vector<size_t> numbers;
  for (size_t i = 0; i < counts.size(); ++i) {
    const bool has_8bit = states != DeviceStates::k32bit && counts[i] >= kAdamw8MinElements;
    if (has_8bit == is_8bit) numbers.push_back(i);
  }
  return numbers;
}

std::vector<int64_t> at_numbers(const std::vector<int64_t>& counts,
                                const std::vector<size_t>& numbers) {
  std::vector<int64_t> chosen;
  for (const size_t i : numbers) chosen.push_back(counts[i]);
  return chosen;
}

std::vector<qlora::cuda::PagedArena::Chunk> arena_chunks(const StatePlan& plan) {
  std::vector<qlora::cuda::PagedArena::Chunk> chunks;
  for (const StatePlan::Chunk& chunk : plan.chunks) chunks.push_back({chunk.offset, chunk.bytes});
  return chunks;
}

qlora::cuda::Paging paging_of(DeviceStates states) {
  return states == DeviceStates::kPaged8bit ? qlora::cuda::Paging::kWhenShort
                                            : qlora::cuda::Paging::kNever;
}

int64_t sum_of(const std::vector<int64_t>& counts) {
  int64_t sum = 0;
  for (const int64_t count : counts) sum += count;
  return sum;
}

int64_t norm_blocks(const std::vector<int64_t>& counts) {
  int64_t blocks = 0;
  for (const int64_t count : counts) blocks += (count + kNormBlock - 1) / kNormBlock;
  return blocks;
}

/// Arrays that are copied to the device as one.
class Bytes {
 public:
  template <class T>
  size_t add(std::span<const T> values) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= 8);
    while (bytes_.size() % 8 != 0) bytes_.push_back(std::byte{0});
    const size_t at = bytes_.size();
    const auto from = std::as_bytes(values);
    bytes_.insert(bytes_.end(), from.begin(), from.end());
    return at;
  }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// A table whose arrays lie at offsets of one allocation.
struct TableOffsets {
  size_t tensors, first_block;
  int64_t tensor_count, block_count;

  template <class Tensor>
  TensorTable<Tensor> at(std::byte* base) const {
    return {reinterpret_cast<const Tensor*>(base + tensors),
            reinterpret_cast<const int64_t*>(base + first_block), tensor_count, block_count};
  }
};

template <class Tensor>
TableOffsets add_table(Bytes& bytes, std::span<const Tensor> tensors, int64_t block) {
  const auto first = first_blocks(tensors, block);
  return {bytes.add(tensors), bytes.add(std::span<const int64_t>(first)),
          static_cast<int64_t>(tensors.size()), first.back()};
}

/// Elements that a step works on: none of a tensor without a gradient.
int64_t work_count(const UpdateTensor& t) {
  return t.gradient == nullptr ? 0 : t.count;
}

/// Whether a launch over both has the same blocks.
bool same_work(const UpdateTensor& a, const UpdateTensor& b) {
  return work_count(a) == work_count(b);
}

bool same(const UpdateTensor& a, const UpdateTensor& b) {
  return a.parameter == b.parameter && a.gradient == b.gradient && a.count == b.count;
}

}  // namespace

DeviceUpdate::DeviceUpdate(std::span<const int64_t> counts, int device, DeviceStates states)
    : counts_(counts.begin(), counts.end()),
      of8_(tensors_where(counts_, states, true)),
      of32_(tensors_where(counts_, states, false)),
      plan_(plan_states(at_numbers(counts_, of8_), qlora::cuda::PagedArena::kLeastChunkBytes)),
      arena_(plan_.bytes, arena_chunks(plan_), device, paging_of(states)),
      states32_(std::max<size_t>(1, static_cast<size_t>(unpaged_bytes()))),
      scratch_(std::max<size_t>(1, norm_scratch_size(norm_blocks(counts_))) * sizeof(double)),
      scalars_(sizeof(UpdateScalars)),
      staging_(2 * sizeof(UpdateScalars)) {
  check(cudaMemset(states32_.get(), 0, states32_.size_bytes()));
  check(cudaStreamSynchronize(nullptr));  // own_ does not wait for the stream that fills with zeros
}

int64_t DeviceUpdate::unpaged_bytes() const {
  return 2 * sum_of(at_numbers(counts_, of32_)) * static_cast<int64_t>(sizeof(float));
}

void DeviceUpdate::step(std::span<const UpdateTensor> tensors, const AdamwStep& step, float unscale,
                        double max_norm, const float* loss, void* caller) {
  QLORA_CHECK(tensors.size() == counts_.size(), ShapeError,
              "[trainer] an update of {} tensors, allowed {}", tensors.size(), counts_.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    QLORA_CHECK(tensors[i].count == counts_[i], ShapeError,
                "[trainer] tensor {} of the update has {} elements, allowed {}", i,
                tensors[i].count, counts_[i]);
  }
  done_.synchronize();  // the last step has read the staging memory and the tables
  const cudaStream_t stream = own_.get();
  called_.record(static_cast<cudaStream_t>(caller));
  called_.block(stream);
  const bool is_new = !std::ranges::equal(tensors, uploaded_, same_work) || loss != captured_loss_;
  if (is_new) graph_ = Graph();
  // The graph's kernels read the tables, so that it outlives gradients at other addresses.
  if (!std::ranges::equal(tensors, uploaded_, same)) upload_tables(tensors, stream);
  captured_loss_ = loss;
  const UpdateScalars scalars{
      .step = step, .unscale = unscale, .max_norm = max_norm, .norm = 0, .clip = 1, .applied = 0};
  auto* const staging = static_cast<UpdateScalars*>(staging_.get());
  staging[0] = scalars;
  check(cudaMemcpyAsync(scalars_.get(), staging, sizeof(scalars), cudaMemcpyHostToDevice, stream));
  const bool has_graph = replays() || (!is_new && !is_paged() && capture(loss, stream));
  if (has_graph) {
    check(cudaGraphLaunch(graph_.get(), stream));
  } else {
    queue(loss, stream);
  }
  check(cudaMemcpyAsync(staging + 1, scalars_.get(), sizeof(scalars), cudaMemcpyDeviceToHost,
                        stream));
  done_.record(stream);
  done_.block(static_cast<cudaStream_t>(caller));
}

UpdateScalars DeviceUpdate::result() const {
  done_.synchronize();
  return static_cast<const UpdateScalars*>(staging_.get())[1];
}

std::vector<Adamw8Tensor> DeviceUpdate::tensors8(std::span<const UpdateTensor> tensors) const {
  std::vector<Adamw8Tensor> rows;
  for (const size_t i : of8_) {
    const StateArrays state = states(i);
    rows.push_back({.parameter = tensors[i].parameter,
                    .gradient = tensors[i].gradient,
                    .mean_codes = static_cast<uint8_t*>(state.mean),
                    .square_codes = static_cast<uint8_t*>(state.square),
                    .mean_absmax = state.mean_absmax,
                    .square_absmax = state.square_absmax,
                    .count = work_count(tensors[i])});
  }
  return rows;
}

std::vector<Adamw32Tensor> DeviceUpdate::tensors32(std::span<const UpdateTensor> tensors) const {
  std::vector<Adamw32Tensor> rows;
  for (const size_t i : of32_) {
    const StateArrays state = states(i);
    rows.push_back({.parameter = tensors[i].parameter,
                    .gradient = tensors[i].gradient,
                    .mean = static_cast<float*>(state.mean),
                    .square = static_cast<float*>(state.square),
                    .count = work_count(tensors[i])});
  }
  return rows;
}

StateArrays DeviceUpdate::states(size_t tensor) const {
  if (const auto found = std::ranges::find(of8_, tensor); found != of8_.end()) {
    const StatePlan::Slot& slot = plan_.slots[static_cast<size_t>(found - of8_.begin())];
    std::byte* const base = arena_.data();
    return {.is_8bit = true,
            .mean = base + slot.mean_codes,
            .square = base + slot.square_codes,
            .mean_absmax = reinterpret_cast<float*>(base + slot.mean_absmax),
            .square_absmax = reinterpret_cast<float*>(base + slot.square_absmax)};
  }
  auto* state = static_cast<float*>(states32_.get());
  for (const size_t i : of32_) {
    if (i == tensor) break;
    state += 2 * counts_[i];
  }
  return {.is_8bit = false,
          .mean = state,
          .square = state + counts_.at(tensor),
          .mean_absmax = nullptr,
          .square_absmax = nullptr};
}

void DeviceUpdate::upload_tables(std::span<const UpdateTensor> tensors, cudaStream_t stream) {
  std::vector<GradientRange> ranges;
  for (const UpdateTensor& t : tensors) ranges.push_back({t.gradient, work_count(t)});
  const auto rows8 = tensors8(tensors);
  const auto rows32 = tensors32(tensors);

  Bytes bytes;
  const auto gradients = add_table(bytes, std::span<const GradientRange>(ranges), kNormBlock);
  const std::span<const Adamw8Tensor> all8(rows8);
  std::vector<TableOffsets> chunks;
  if (!is_paged()) {  // one launch for all
    chunks.push_back(add_table(bytes, all8, kAdamwBlock));
  } else {
    for (const StatePlan::Chunk& chunk : plan_.chunks) {
      chunks.push_back(
          add_table(bytes, all8.subspan(chunk.first_tensor, chunk.tensor_count), kAdamwBlock));
    }
  }
  const auto of32 = add_table(bytes, std::span<const Adamw32Tensor>(rows32), kAdamwBlock);
  table_bytes_ = bytes.take();
  if (tables_.size_bytes() < table_bytes_.size()) {
    tables_ = qlora::cuda::DeviceMemory(table_bytes_.size());
  }
  check(cudaMemcpyAsync(tables_.get(), table_bytes_.data(), table_bytes_.size(),
                        cudaMemcpyHostToDevice, stream));
  auto* const base = static_cast<std::byte*>(tables_.get());
  gradients_ = gradients.at<GradientRange>(base);
  chunks_.clear();
  for (const TableOffsets& chunk : chunks) chunks_.push_back(chunk.at<Adamw8Tensor>(base));
  tensors32_ = of32.at<Adamw32Tensor>(base);
  uploaded_.assign(tensors.begin(), tensors.end());
}

void DeviceUpdate::queue(const float* loss, cudaStream_t stream) {
  arena_.look_for_room();
  const size_t ahead = std::min(kLookAhead, arena_.chunk_count());
  for (size_t chunk = 0; chunk < ahead; ++chunk) arena_.prefetch(chunk);
  gradient_norm({.gradients = gradients_,
                 .loss = loss,
                 .scratch = static_cast<double*>(scratch_.get()),
                 .scalars = device_scalars(),
                 .stream = stream});
  queue_chunks(stream);
  fused_adamw32({.tensors = tensors32_, .scalars = device_scalars(), .stream = stream});
}

void DeviceUpdate::queue_chunks(cudaStream_t stream) {
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    if (is_paged()) {
      if (chunk + kLookAhead < chunks_.size()) arena_.prefetch(chunk + kLookAhead);
      arena_.acquire(chunk, stream);
    }
    fused_adamw8({.tensors = chunks_[chunk], .scalars = device_scalars(), .stream = stream});
    if (is_paged()) arena_.release(chunk, stream);
  }
}

bool DeviceUpdate::capture(const float* loss, cudaStream_t stream) {
  if (!may_capture_) return false;
  may_capture_ = false;  // until it has worked
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
    cudaGetLastError();  // told by the return value: not the next call's
    return false;
  }
  try {
    queue(loss, stream);
  } catch (...) {
    cudaGraph_t broken = nullptr;
    cudaStreamEndCapture(stream, &broken);
    if (broken != nullptr) cudaGraphDestroy(broken);
    cudaGetLastError();
    throw;
  }
  cudaGraph_t captured = nullptr;
  cudaError_t status = cudaStreamEndCapture(stream, &captured);
  const qlora::cuda::Owned<cudaGraph_t, cudaGraphDestroy> graph(captured);
  cudaGraphExec_t executable = nullptr;
  if (status == cudaSuccess) status = cudaGraphInstantiate(&executable, captured, 0);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  graph_ = Graph(executable);
  may_capture_ = true;
  return true;
}

DeviceOptimizer* make_device_optimizer(std::span<const int64_t> counts, DeviceStates states,
                                       int device) {
  return new DeviceUpdate(counts, device, states);
}

}  // namespace qlora::trainer::cuda
