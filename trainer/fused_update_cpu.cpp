#include <algorithm>
#include <vector>

#include "trainer/fused_update_backend.h"
#include "trainer/tensor_ranges.h"

namespace qlora::trainer {
namespace {

/// Calls update(part, count) on runs of whole blocks whose gradients are scaled already. Part is a
/// tensor that starts at the run.
template <class Tensor, class Part, class Update>
void for_scaled_runs(const TensorTable<Tensor>& table, const UpdateScalars& scalars,
                     const Part& part, const Update& update) {
  constexpr int64_t kRun = 16 * kAdamwBlock;
  const std::span tensors(table.tensors, static_cast<size_t>(table.tensor_count));
  parallel_over_blocks(tensors, kAdamwBlock, 64,
                       [&](const Tensor& tensor, int64_t begin, int64_t end) {
                         std::vector<float> gradient(kRun);
                         for (int64_t first = begin; first < end; first += kRun) {
                           const int64_t count = std::min(kRun, end - first);
                           for (int64_t i = 0; i < count; ++i) {
                             gradient[i] = scaled_gradient(tensor.gradient[first + i], scalars);
                           }
                           Tensor run = part(tensor, first);
                           run.gradient = gradient.data();
                           run.count = count;
                           update(run);
                         }
                       });
}

}  // namespace

void cpu::fused_adamw8(const FusedAdamw8Args& a) {
  if (a.scalars->applied == 0) return;
  for_scaled_runs(
      a.tensors, *a.scalars,
      [](const Adamw8Tensor& t, int64_t first) {
        return Adamw8Tensor{.parameter = t.parameter + first,
                            .gradient = nullptr,
                            .mean_codes = t.mean_codes + first,
                            .square_codes = t.square_codes + first,
                            .mean_absmax = t.mean_absmax + first / kAdamwBlock,
                            .square_absmax = t.square_absmax + first / kAdamwBlock,
                            .count = 0};
      },
      [&](const Adamw8Tensor& run) { adamw8_run(run, a.scalars->step); });
}

void cpu::fused_adamw32(const FusedAdamw32Args& a) {
  if (a.scalars->applied == 0) return;
  for_scaled_runs(
      a.tensors, *a.scalars,
      [](const Adamw32Tensor& t, int64_t first) {
        return Adamw32Tensor{.parameter = t.parameter + first,
                             .gradient = nullptr,
                             .mean = t.mean + first,
                             .square = t.square + first,
                             .count = 0};
      },
      [&](const Adamw32Tensor& run) { adamw32_range(run, 0, run.count, a.scalars->step); });
}

}  // namespace qlora::trainer
