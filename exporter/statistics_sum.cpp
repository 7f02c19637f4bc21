#include "exporter/statistics_sum.h"

#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/error.h"
#include "quant/column_sizes.h"
#include "quant/gram.h"

namespace qlora::exporter {

StatisticsSum::StatisticsSum(int64_t width)
    : sum_{.gram = at::zeros({width, width}, torch::kFloat32),
           .abs_sum = at::zeros({width}, torch::kFloat32),
           .abs_max = at::zeros({width}, torch::kFloat32),
           .tokens = 0} {}

void StatisticsSum::add(const torch::Tensor& x) {
  quant::add_gram(x, sum_.gram);
  const torch::Tensor abs_sum = at::zeros_like(sum_.abs_sum);  // few numbers in one f32 sum
  quant::add_column_sizes(x, abs_sum, sum_.abs_max);
  sum_.abs_sum += abs_sum;
  sum_.tokens += x.size(0);
}

quant::LinearStatistics StatisticsSum::result(const std::string& where) {
  QLORA_CHECK(sum_.abs_sum.isfinite().all().item<bool>(), ValueError,
              "[export] the activations that {} reads are not finite; the compute type overflows "
              "or the weights are damaged: try --compute-dtype fp32",
              where);
  const torch::Tensor upper = sum_.gram.triu();
  sum_.gram = upper + upper.triu(1).t();
  return sum_;
}

}  // namespace qlora::exporter
