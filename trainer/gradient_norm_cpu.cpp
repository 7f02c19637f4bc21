#include <algorithm>
#include <array>

#include "core/parallel.h"
#include "trainer/gradient_norm_backend.h"

namespace qlora::trainer {
namespace {

using quant::kSumGroup;

double block_sum(const float* x, int64_t count, float unscale) {
  std::array<double, kSumGroup> v{};
  for (int64_t row = 0; row < count; row += kSumGroup) {
    const int64_t width = std::min<int64_t>(kSumGroup, count - row);
    for (int64_t j = 0; j < width; ++j) {
      const double g = x[row + j] * unscale;
      v[j] += g * g;
    }
  }
  return quant::sum_group(v.data());
}

}  // namespace

void cpu::gradient_norm(const GradientNormArgs& a) {
  const float unscale = a.scalars->unscale;
  double* sums = a.scratch;
  int64_t count = a.gradients.block_count;
  parallel_for(count, 16, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const auto place = a.gradients.place(block);
      const GradientRange& g = a.gradients.tensors[place.tensor];
      const int64_t first = place.block * kNormBlock;
      sums[block] = block_sum(g.values + first, std::min(kNormBlock, g.count - first), unscale);
    }
  });
  while (count > 1) {
    const int64_t groups = (count + kSumGroup - 1) / kSumGroup;
    for (int64_t group = 0; group < groups; ++group) {
      std::array<double, kSumGroup> v{};
      const int64_t first = group * kSumGroup;
      std::copy(sums + first, sums + std::min(first + kSumGroup, count), v.begin());
      sums[count + group] = quant::sum_group(v.data());
    }
    sums += count;
    count = groups;
  }
  finish_norm(count == 0 ? 0 : sums[0], a.loss, *a.scalars);
}

}  // namespace qlora::trainer
