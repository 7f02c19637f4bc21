#include "quant/awq.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "quant/affine.h"
#include "quant/affine_backend.h"
#include "quant/awq_backend.h"
#include "quant/awq_composed.h"
#include "quant/checks.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

/// From so many rows on, every kSampled-th of them tells which candidates are tried on all.
constexpr int64_t kRowsToSample = 512;
constexpr int64_t kSampled = 4;
/// A candidate is tried on all rows where the sampled ones lose at most so much more than the best.
constexpr double kSampledMargin = 1.05;

void check_inputs(std::span<const Tensor> weights, const LinearStatistics& s, bool sums) {
  QLORA_CHECK(!weights.empty(), ShapeError, "[quant] no weight was given, allowed at least one");
  check_gram(s);
  const int64_t cols = s.gram.size(0);
  for (const Tensor& w : weights) {
    check_weight(w, cols);
    check_f32(w);
  }
  check_tokens(s);
  QLORA_CHECK(!sums || (s.abs_sum.defined() && s.abs_sum.dim() == 1 && s.abs_sum.size(0) == cols),
              ShapeError, "[quant] abs_sum has shape {}, allowed [{}]", shape_text(s.abs_sum),
              cols);
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

struct Candidate {
  Tensor scales;
  double alpha = 0;
  bool uses_weight = false;
  double sampled_loss = 0;
};

/// Both forms over all exponents; `relative` is undefined where only the first is tried.
std::vector<Candidate> scale_candidates(const Tensor& size, const Tensor& counts,
                                        const Tensor& relative, int64_t steps) {
  std::vector<Candidate> candidates;
  for (int64_t step = 0; step < steps; ++step) {
    const double alpha = static_cast<double>(step) / static_cast<double>(steps);
    const auto s = size.pow(alpha);
    if (step > 0) candidates.push_back({normalized(s, counts), alpha, false});
    if (!relative.defined()) continue;
    const auto both = s / relative.clamp_min(1e-6).pow(1 - alpha);
    candidates.push_back({normalized(both, counts), alpha, true});
  }
  return candidates;
}

int64_t total_rows(const std::vector<Tensor>& weights) {
  int64_t rows = 0;
  for (const Tensor& w : weights) rows += w.size(0);
  return rows;
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

/// Candidates of the clip search: every part of the whole magnitude that is not below clip_least.
int64_t clip_candidates(const AwqOptions& o) {
  int64_t tried = 1;
  while (tried < o.clip_steps && kept_magnitude(tried, o.clip_steps) >= o.clip_least) ++tried;
  return tried;
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

  const auto loss_of = [&](const Tensor& s, int64_t every) {
    double loss = 0;
    for (const Tensor& w : weights) {
      const auto rows = every == 1 ? w : w.slice(0, 0, w.size(0), every).contiguous();
      loss += output_error(scaled_error(rows, s, affine, group_size), statistics);
    }
    return loss;
  };
  std::vector<Candidate> candidates = scale_candidates(size, counts, relative, options.scale_steps);
  if (total_rows(weights) >= kRowsToSample) {
    double least = std::numeric_limits<double>::infinity();
    for (Candidate& c : candidates) {
      c.sampled_loss = loss_of(c.scales, kSampled);
      least = std::min(least, c.sampled_loss);
    }
    std::erase_if(candidates,
                  [&](const Candidate& c) { return !(c.sampled_loss <= kSampledMargin * least); });
  }
  AwqScales best{.scales = torch::ones_like(size)};
  best.loss_before = best.loss = loss_of(best.scales, 1);
  for (const Candidate& c : candidates) {
    const double loss = loss_of(c.scales, 1);
    if (!(loss < best.loss)) continue;
    best.scales = c.scales;
    best.alpha = c.alpha;
    best.uses_weight = c.uses_weight;
    best.loss = loss;
  }
  return best;
}

torch::Tensor awq_clip(const Tensor& given, const LinearStatistics& statistics,
                       const AffineOptions& affine, const AwqOptions& options) {
  const at::NoGradGuard no_grad;
  check_inputs({&given, 1}, statistics, false);
  const int64_t group_size = checked_group_size(given.size(1), affine);
  affine_grids(given, affine);  // says which element or scale is at fault
  if (!given.is_cpu()) {
    return composed::awq_clip(given, statistics.gram, affine, group_size, options.clip_steps,
                              clip_candidates(options));
  }
  const auto weight = given.contiguous(), gram = statistics.gram.contiguous();
  // Rows whose narrowed grid would leave its type keep their whole range.
  auto magnitudes = weight.abs().view({weight.size(0), -1, group_size}).amax({2});
  int64_t bad = weight.size(0);
  cpu::search_clip({.weight = weight.const_data_ptr<float>(),
                    .rows = weight.size(0),
                    .cols = weight.size(1),
                    .group_size = group_size,
                    .options = affine,
                    .gram = gram.const_data_ptr<float>(),
                    .steps = options.clip_steps,
                    .tried = clip_candidates(options),
                    .magnitudes = magnitudes.mutable_data_ptr<float>(),
                    .first_bad_row = &bad});
  return magnitudes;
}

torch::Tensor clipped(const Tensor& weight, const Tensor& magnitudes) {
  QLORA_CHECK(weight.defined() && weight.dim() == 2 && magnitudes.defined() &&
                  magnitudes.dim() == 2 && magnitudes.size(0) == weight.size(0) &&
                  magnitudes.size(1) > 0 && weight.size(1) % magnitudes.size(1) == 0,
              ShapeError,
              "[quant] magnitudes have shape {} and the weight {}, allowed [N, groups] "
              "and [N, K]",
              shape_text(magnitudes), shape_text(weight));
  const at::NoGradGuard no_grad;
  const auto most = magnitudes.unsqueeze(2);  // [N, groups, 1]
  const auto groups = weight.reshape({weight.size(0), magnitudes.size(1), -1});
  return torch::minimum(torch::maximum(groups, -most), most).view(weight.sizes());
}

}  // namespace qlora::quant
