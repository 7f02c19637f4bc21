#include "quant/awq_composed.h"

#include <algorithm>
#include <vector>

#include "quant/affine.h"
#include "quant/awq_backend.h"

namespace qlora::quant::composed {
namespace {

using torch::Tensor;

/// Elements of all candidates that are held at once.
constexpr int64_t kElementsAtOnce = 1 << 22;

/// Best magnitudes [N, 1] of one group's weights [N, G].
Tensor best_magnitudes(const Tensor& w, const Tensor& gram, const AffineOptions& affine,
                       const Tensor& parts) {
  const auto tried = w.abs().amax({1}, true).unsqueeze(0) * parts;                 // [C, N, 1]
  const auto cut = torch::minimum(torch::maximum(w.unsqueeze(0), -tried), tried);  // [C, N, G]
  AffineOptions whole_row = affine;
  whole_row.group_size = -1;
  const auto d = round_to_grid(cut.view({-1, w.size(1)}), whole_row).view(cut.sizes()) - w;
  const auto errors = (torch::matmul(d, gram) * d).sum(2);  // [C, N]
  return tried.gather(0, errors.argmin(0).view({1, -1, 1})).squeeze(0);
}

}  // namespace

torch::Tensor awq_clip(const Tensor& weight, const Tensor& gram, const AffineOptions& affine,
                       int64_t group_size, int64_t steps, int64_t tried) {
  std::vector<float> kept;
  for (int64_t step = 0; step < tried; ++step) kept.push_back(kept_magnitude(step, steps));
  const auto parts = torch::tensor(kept).to(weight.device()).view({-1, 1, 1});
  const int64_t rows_at_once = std::max<int64_t>(1, kElementsAtOnce / (group_size * tried));
  auto magnitudes = torch::empty({weight.size(0), weight.size(1) / group_size}, weight.options());
  for (int64_t g = 0; g < magnitudes.size(1); ++g) {
    const auto columns = weight.narrow(1, g * group_size, group_size);
    const auto own = gram.narrow(0, g * group_size, group_size)
                         .narrow(1, g * group_size, group_size)
                         .contiguous();
    for (int64_t row = 0; row < weight.size(0); row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, weight.size(0) - row);
      const auto w = columns.narrow(0, row, rows).contiguous();
      magnitudes.narrow(0, row, rows).narrow(1, g, 1).copy_(best_magnitudes(w, own, affine, parts));
    }
  }
  return magnitudes;
}

}  // namespace qlora::quant::composed
