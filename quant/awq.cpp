#include "quant/awq.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "quant/affine.h"
#include "quant/affine_backend.h"
#include "quant/checks.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

/// Rows whose candidates are held at once by the clip search.
constexpr int64_t kClipElements = 1 << 22;

void check_inputs(std::span<const Tensor> weights, const LinearStatistics& s, bool sums) {
  QLORA_CHECK(!weights.empty(), ShapeError, "[quant] no weight was given, allowed at least one");
  const int64_t cols = s.gram.defined() && s.gram.dim() == 2 ? s.gram.size(0) : -1;
  QLORA_CHECK(cols > 0 && s.gram.size(1) == cols, ShapeError,
              "[quant] the Gram matrix has shape {}, allowed [K, K]",
              s.gram.defined() ? c10::str(s.gram.sizes()) : "none");
  for (const Tensor& w : weights) {
    QLORA_CHECK(w.defined() && w.dim() == 2 && w.numel() > 0 && w.size(1) == cols, ShapeError,
                "[quant] weight has shape {}, allowed [N, {}]",
                w.defined() ? c10::str(w.sizes()) : "none", cols);
    QLORA_CHECK(w.scalar_type() == torch::kFloat32, ValueError, "[quant] weight is {}, allowed f32",
                c10::toString(w.scalar_type()));
  }
  QLORA_CHECK(s.tokens > 0, ValueError,
              "[quant] the statistics hold {} tokens, allowed at least 1; calibrate first",
              s.tokens);
  QLORA_CHECK(!sums || (s.abs_sum.defined() && s.abs_sum.dim() == 1 && s.abs_sum.size(0) == cols),
              ShapeError, "[quant] abs_sum has shape {}, allowed [{}]",
              s.abs_sum.defined() ? c10::str(s.abs_sum.sizes()) : "none", cols);
  const bool finite =
      s.gram.isfinite().all().item<bool>() && (!sums || s.abs_sum.isfinite().all().item<bool>());
  QLORA_CHECK(finite, ValueError,
              "[quant] the statistics of the inputs hold numbers that are not finite; the model's "
              "activations overflow on the calibration samples: compute in another type");
}

/// Mean over all rows of |w| / max|w| in its group.  [K]
Tensor relative_size(std::span<const Tensor> weights, int64_t group_size) {
  Tensor sum;
  int64_t rows = 0;
  for (const Tensor& w : weights) {
    const auto groups = w.abs().reshape({w.size(0), -1, group_size});
    const auto relative = groups / groups.amax({2}, true).clamp_min(1e-30);
    const auto columns = relative.sum(0).reshape({-1});
    sum = sum.defined() ? sum + columns : columns;
    rows += w.size(0);
  }
  return sum / static_cast<double>(rows);
}

/// Divided by sqrt(max · min) of the columns that count; the others stay as they are.
Tensor normalized(const Tensor& s, const Tensor& counts) {
  const auto inf = std::numeric_limits<float>::infinity();
  const auto most = s.masked_fill(counts.logical_not(), -inf).max();
  const auto least = s.masked_fill(counts.logical_not(), inf).min();
  const auto scaled = s / (most * least).sqrt();
  return torch::where(counts.logical_and(scaled.isfinite()).logical_and(scaled.gt(0)), scaled,
                      torch::ones_like(s));
}

/// round(w · s) / s - w.  [N, K]
Tensor scaled_error(const Tensor& w, const Tensor& s, const AffineOptions& affine,
                    int64_t group_size) {
  if (!w.is_cpu()) return round_to_grid(w * s, affine) / s - w;
  auto error = torch::empty(w.sizes(), w.options());
  int64_t bad = w.size(0);
  cpu::affine_scaled_error({.weight = w.const_data_ptr<float>(),
                            .rows = w.size(0),
                            .cols = w.size(1),
                            .group_size = group_size,
                            .groups = w.size(1) / group_size,
                            .options = affine,
                            .values = error.mutable_data_ptr<float>(),
                            .first_bad_row = &bad},
                           s.const_data_ptr<float>());
  // Scales that no format can hold: this candidate is not taken.
  if (bad < w.size(0)) error.fill_(std::numeric_limits<float>::infinity());
  return error;
}

/// Greatest magnitudes that are tried for each element of `most` [N, 1]: [C, N, 1].
Tensor tried_magnitudes(const Tensor& most, const AwqOptions& o) {
  std::vector<float> parts;
  for (int64_t step = 0; step < o.clip_steps; ++step) {
    const double part = 1 - static_cast<double>(step) / static_cast<double>(o.clip_steps);
    if (step > 0 && part < o.clip_least) break;
    parts.push_back(static_cast<float>(part));
  }
  const auto factors = torch::tensor(parts, most.options()).view({-1, 1, 1});
  return most.unsqueeze(0) * factors;
}

/// Best magnitudes [N, 1] of one group's weights [N, G] with the group's part of the Gram matrix.
Tensor best_magnitudes(const Tensor& w, const Tensor& gram, const AffineOptions& affine,
                       const AwqOptions& options) {
  const auto tried = tried_magnitudes(w.abs().amax({1}, true), options);
  const auto cut = torch::minimum(torch::maximum(w.unsqueeze(0), -tried), tried);
  AffineOptions whole_row = affine;
  whole_row.group_size = -1;
  const auto d = round_to_grid(cut.view({-1, w.size(1)}), whole_row).view(cut.sizes()) - w;
  const auto errors = (torch::matmul(d, gram) * d).sum(2);  // [C, N]
  return tried.gather(0, errors.argmin(0).view({1, -1, 1})).squeeze(0);
}

}  // namespace

AwqScales awq_scales(std::span<const Tensor> given, const LinearStatistics& statistics,
                     const AffineOptions& affine, const AwqOptions& options) {
  const at::NoGradGuard no_grad;
  check_inputs(given, statistics, true);
  const int64_t group_size = checked_group_size(statistics.gram.size(0), affine);
  std::vector<Tensor> weights;
  for (const Tensor& w : given) {
    round_to_grid(w, affine);  // says which element or scale is at fault
    weights.push_back(w.contiguous());
  }
  const auto size = statistics.abs_sum / static_cast<double>(statistics.tokens);
  const auto counts = size.gt(0);
  const auto relative = options.duo_scaling ? relative_size(weights, group_size) : Tensor();

  const auto loss_of = [&](const Tensor& s) {
    double loss = 0;
    for (const Tensor& w : weights) {
      loss += output_error(scaled_error(w, s, affine, group_size), statistics);
    }
    return loss;
  };
  AwqScales best{.scales = torch::ones_like(size)};
  best.loss_before = best.loss = loss_of(best.scales);
  for (int64_t step = 0; step < options.scale_steps; ++step) {
    const double alpha = static_cast<double>(step) / static_cast<double>(options.scale_steps);
    for (const bool uses_weight : {false, true}) {
      if (uses_weight ? !options.duo_scaling : step == 0) continue;  // α = 0 alone: all 1
      auto s = size.pow(alpha);
      if (uses_weight) s = s / relative.clamp_min(1e-6).pow(1 - alpha);
      s = normalized(s, counts);
      const double loss = loss_of(s);
      if (!(loss < best.loss)) continue;
      best.scales = s;
      best.alpha = alpha;
      best.uses_weight = uses_weight;
      best.loss = loss;
    }
  }
  return best;
}

torch::Tensor awq_clip(const Tensor& weight, const LinearStatistics& statistics,
                       const AffineOptions& affine, const AwqOptions& options) {
  const at::NoGradGuard no_grad;
  check_inputs({&weight, 1}, statistics, false);
  const int64_t group_size = checked_group_size(weight.size(1), affine);
  const int64_t rows_at_once =
      std::max<int64_t>(1, kClipElements / (group_size * std::max<int64_t>(1, options.clip_steps)));
  auto magnitudes = torch::empty({weight.size(0), weight.size(1) / group_size}, weight.options());
  for (int64_t g = 0; g < magnitudes.size(1); ++g) {
    const auto gram = statistics.gram.narrow(0, g * group_size, group_size)
                          .narrow(1, g * group_size, group_size)
                          .contiguous();
    for (int64_t row = 0; row < weight.size(0); row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, weight.size(0) - row);
      const auto w = weight.narrow(0, row, rows).narrow(1, g * group_size, group_size).contiguous();
      magnitudes.narrow(0, row, rows)
          .narrow(1, g, 1)
          .copy_(best_magnitudes(w, gram, affine, options));
    }
  }
  return magnitudes;
}

torch::Tensor clipped(const Tensor& weight, const Tensor& magnitudes) {
  QLORA_CHECK(weight.defined() && weight.dim() == 2 && magnitudes.defined() &&
                  magnitudes.dim() == 2 && magnitudes.size(0) == weight.size(0) &&
                  magnitudes.size(1) > 0 && weight.size(1) % magnitudes.size(1) == 0,
              ShapeError,
              "[quant] magnitudes have shape {} and the weight {}, allowed [N, groups] "
              "and [N, K]",
              magnitudes.defined() ? c10::str(magnitudes.sizes()) : "none",
              weight.defined() ? c10::str(weight.sizes()) : "none");
  const at::NoGradGuard no_grad;
  const auto most = magnitudes.unsqueeze(2);  // [N, groups, 1]
  const auto groups = weight.reshape({weight.size(0), magnitudes.size(1), -1});
  return torch::minimum(torch::maximum(groups, -most), most).view(weight.sizes());
}

}  // namespace qlora::quant
