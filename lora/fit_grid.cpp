#include "lora/fit_grid.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/where.h>

#include "core/error.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

constexpr int kRanges = 20;
constexpr double kNarrowest = 0.5;  // as a part of the whole range

/// Squared error of each group.  [N, groups]
Tensor group_errors(const Tensor& weight, quant::AffineTensor& grids) {
  quant::requantize_affine(weight, grids);
  const Tensor error = quant::dequantize_affine(grids).sub_(weight).square_();
  return error.view({weight.size(0), grids.groups(), -1}).sum(2);
}

}  // namespace

quant::AffineTensor clipped_grids(const Tensor& weight, const quant::AffineOptions& options) {
  const at::NoGradGuard no_graph;
  quant::AffineTensor best = quant::affine_grids(weight, options);
  Tensor least = group_errors(weight, best);
  const Tensor groups = weight.view({weight.size(0), best.groups(), -1});
  const Tensor low = groups.amin(2, /*keepdim=*/true), high = groups.amax(2, true);
  for (int i = 1; i <= kRanges; ++i) {
    const double part = 1 - (1 - kNarrowest) * i / kRanges;
    const Tensor narrowed = at::min(at::max(groups, low * part), high * part).view(weight.sizes());
    quant::AffineTensor tried = quant::affine_grids(narrowed, options);
    const Tensor error = group_errors(weight, tried);
    const Tensor is_better = error < least;
    best.scales = at::where(is_better, tried.scales, best.scales);
    best.zeros = at::where(is_better, tried.zeros, best.zeros);
    least = at::where(is_better, error, least);
  }
  best.codes = Tensor();
  return best;
}

void fit_held_grid(const std::string& module, const FrozenWeight& weight, const Adapter* adapter,
                   const LinearGrid& grid) {
  const at::NoGradGuard no_graph;
  HeldGrid& held = *grid.held;
  if (held.fit == GridFit::kGiven) return;
  const auto& options = std::get<quant::AffineOptions>(grid.weight);
  try {
    const Tensor merged = merged_or_plain(weight, adapter);
    const quant::AffineTensor fitted = held.fit == GridFit::kClip
                                           ? clipped_grids(merged, options)
                                           : quant::affine_grids(merged, options);
    held.scales.copy_(fitted.scales);
    held.zeros.copy_(fitted.zeros);
  } catch (const ValueError& problem) {
    throw ValueError(fmt::format("[qat] {} cannot be put on its grid: {}", module, problem.what()));
  }
  if (held.factor.defined()) held.factor.fill_(1);
}

}  // namespace qlora::lora
