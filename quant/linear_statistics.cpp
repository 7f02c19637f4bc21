#include "quant/linear_statistics.h"

#include <ATen/core/grad_mode.h>

#include "quant/checks.h"

namespace qlora::quant {
namespace {

/// Rows whose products are held at once.
constexpr int64_t kRowsAtOnce = 512;
constexpr int64_t kColumnsAtOnce = 192;

}  // namespace

LinearStatistics LinearStatistics::divided_by(const torch::Tensor& s) const {
  const at::NoGradGuard no_grad;
  QLORA_CHECK(s.defined() && s.dim() == 1 && gram.defined() && s.size(0) == gram.size(0),
              ShapeError, "[quant] the scale vector has shape {}, allowed [{}]", shape_text(s),
              gram.defined() ? gram.size(0) : 0);
  const auto divisor = s.to(torch::kFloat32);
  LinearStatistics r{.tokens = tokens};
  r.gram = gram / torch::outer(divisor, divisor);  // symmetric as the Gram matrix is
  if (abs_sum.defined()) r.abs_sum = abs_sum / divisor.abs();
  if (abs_max.defined()) r.abs_max = abs_max / divisor.abs();
  return r;
}

void check_gram(const LinearStatistics& s) {
  QLORA_CHECK(s.gram.defined() && s.gram.dim() == 2 && s.gram.size(0) == s.gram.size(1) &&
                  s.gram.numel() > 0,
              ShapeError, "[quant] the Gram matrix has shape {}, allowed [K, K]",
              shape_text(s.gram));
}

void check_tokens(const LinearStatistics& s) {
  QLORA_CHECK(s.tokens > 0, ValueError,
              "[quant] the statistics hold {} tokens, allowed at least 1; calibrate first",
              s.tokens);
}

double output_error(const torch::Tensor& difference, const LinearStatistics& statistics) {
  const at::NoGradGuard no_grad;
  const auto& gram = statistics.gram;
  QLORA_CHECK(difference.defined() && difference.dim() == 2 && gram.defined() && gram.dim() == 2 &&
                  gram.size(0) == gram.size(1) && gram.size(0) == difference.size(1),
              ShapeError,
              "[quant] the difference has shape {} and the Gram matrix {}, allowed "
              "[N, K] and [K, K]",
              shape_text(difference), shape_text(gram));
  check_tokens(statistics);
  // The Gram matrix is symmetric: a block of its rows from the diagonal on, what stands right of
  // the diagonal block twice. The products of a row are f32; their sum is f64.
  const int64_t cols = gram.size(0);
  auto sum = torch::zeros({}, difference.options().dtype(torch::kFloat64));
  for (int64_t row = 0; row < difference.size(0); row += kRowsAtOnce) {
    const auto d = difference.narrow(0, row, std::min(kRowsAtOnce, difference.size(0) - row));
    for (int64_t col = 0; col < cols; col += kColumnsAtOnce) {
      const int64_t width = std::min(kColumnsAtOnce, cols - col);
      const auto own = d.narrow(1, col, width), rest = d.narrow(1, col, cols - col);
      auto product = torch::matmul(own, gram.narrow(0, col, width).narrow(1, col, cols - col));
      product.mul_(rest);
      sum += product.sum(torch::kFloat64)
                 .mul_(2)
                 .sub_(product.narrow(1, 0, width).sum(torch::kFloat64));
    }
  }
  return sum.item<double>() / static_cast<double>(statistics.tokens);
}

}  // namespace qlora::quant
