#include "quant/gptq_composed.h"

#include <vector>

#include "quant/affine_composed.h"
#include "quant/gptq_backend.h"

namespace qlora::quant::composed {
namespace {

using torch::Tensor;

/// Candidates of a group's grid: scales and zeros [C, N, 1].
struct Candidates {
  Tensor scales, zeros;
};

Candidates candidates(const Tensor& group, const GptqBlock& b, int64_t steps) {
  const auto low = group.amin({1}), high = group.amax({1});
  std::vector<Tensor> scales, zeros;
  for (int64_t step = 0; step < steps; ++step) {
    const double part = kept_range(step, steps, b.search_least);
    const auto ends = torch::stack({low * part, high * part}, 1);  // [N, 2]: a group of its range
    const Grids grids = affine_grids(ends, 2, b.affine);
    scales.push_back(grids.scales);
    zeros.push_back(grids.zeros);
  }
  return {torch::stack(scales), torch::stack(zeros)};
}

/// w - its rounded value, with one grid per leading element.
Tensor difference(const Tensor& w, const Tensor& scales, const Tensor& zeros, int64_t bits) {
  return w - affine_values(affine_codes(w, scales, zeros, bits), scales, zeros);
}

/// Errors of all candidates [C, N], summed over columns one after the other.
Tensor errors_of(const Tensor& group, const Candidates& c, const GptqBlock& b, int64_t first) {
  const int64_t count = group.size(1);
  auto w = group.unsqueeze(0).repeat({c.scales.size(0), 1, 1});  // [C, N, count]
  auto sum = torch::zeros({c.scales.size(0), group.size(0), 1}, group.options());
  for (int64_t k = 0; k < count; ++k) {
    auto e = difference(w.narrow(2, k, 1), c.scales, c.zeros, b.affine.bits);
    if (b.search == ScaleSearch::kMse) {
      sum += (e * e) * b.column_weight.narrow(0, first + k, 1);
      continue;
    }
    const auto u = b.factor.select(0, first + k).narrow(0, first, count);
    e = e / u.narrow(0, k, 1);
    sum += e * e;
    if (k + 1 < count) {
      auto rest = w.narrow(2, k + 1, count - k - 1);
      rest.sub_(e * u.narrow(0, k + 1, count - k - 1));
    }
  }
  return sum.squeeze(2);
}

/// Finds the grid of the columns [first, first + group_size).
void fit(GptqBlock& b, int64_t first, int64_t group) {
  const auto weights = b.weight.narrow(1, first, b.group_size);
  const int64_t steps = b.search == ScaleSearch::kMinMax ? 1 : b.search_steps;
  const Candidates c = candidates(weights, b, steps);
  auto best = torch::zeros({1, b.weight.size(0), 1}, b.weight.options().dtype(torch::kInt64));
  if (steps > 1) best = errors_of(weights, c, b, first).argmin(0).view({1, -1, 1});
  b.scales.narrow(1, group, 1).copy_(c.scales.gather(0, best).squeeze(0));
  b.zeros.narrow(1, group, 1).copy_(c.zeros.gather(0, best).squeeze(0));
}

}  // namespace

torch::Tensor gptq_block(GptqBlock& b, const std::vector<int32_t>& column_group, int64_t begin,
                         int64_t end) {
  auto errors = torch::empty({b.weight.size(0), end - begin}, b.weight.options());
  for (int64_t k = begin; k < end; ++k) {
    const int64_t group = column_group[k];
    if (b.fits && k % b.group_size == 0) fit(b, k, group);
    const auto scales = b.scales.narrow(1, group, 1), zeros = b.zeros.narrow(1, group, 1);
    const auto w = b.weight.narrow(1, k, 1);
    const auto codes = affine_codes(w, scales, zeros, b.affine.bits);
    b.codes.narrow(1, k, 1).copy_(codes);
    const auto u = b.factor.select(0, k);
    const auto e = (w - affine_values(codes, scales, zeros)) / u.narrow(0, k, 1);
    errors.narrow(1, k - begin, 1).copy_(e);
    if (k + 1 < end) {
      b.weight.narrow(1, k + 1, end - k - 1).sub_(e * u.narrow(0, k + 1, end - k - 1));
    }
  }
  return errors;
}

void search_grids(GptqBlock& b) {
  for (int64_t first = 0; first < b.weight.size(1); first += b.group_size) {
    fit(b, first, first / b.group_size);
  }
}

}  // namespace qlora::quant::composed
