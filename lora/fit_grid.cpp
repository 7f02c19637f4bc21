#include "lora/fit_grid.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>

#include "core/error.h"
#include "quant/gptq_backend.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

constexpr int64_t kRanges = 20;     // beside the whole one
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
  quant::AffineTensor grids = quant::affine_grids(weight, options);
  const Tensor dense = weight.contiguous(), alike = at::ones({weight.size(1)}, torch::kFloat32);
  int64_t bad = weight.size(0);  // rows without a narrower scale in its type keep the whole range
  quant::cpu::search_grids({.weight = dense.const_data_ptr<float>(),
                            .rows = dense.size(0),
                            .cols = dense.size(1),
                            .group_size = dense.size(1) / grids.groups(),
                            .search = {.affine = options,
                                       .kind = quant::ScaleSearch::kMse,
                                       .steps = kRanges + 1,
                                       .least = kNarrowest,
                                       .column_weight = alike.const_data_ptr<float>()},
                            .scales = grids.scales.mutable_data_ptr<float>(),
                            .zeros = grids.zeros.mutable_data_ptr<uint8_t>(),
                            .first_bad_row = &bad});
  return grids;
}

quant::AffineTensor clipped_grids_composed(const Tensor& weight,
                                           const quant::AffineOptions& options) {
  const at::NoGradGuard no_graph;
  quant::AffineTensor best = quant::affine_grids(weight, options);
  Tensor least = group_errors(weight, best);
  const Tensor groups = weight.view({weight.size(0), best.groups(), -1});
  const Tensor low = groups.amin(2, /*keepdim=*/true), high = groups.amax(2, true);
  for (int64_t i = 1; i <= kRanges; ++i) {
    const double part = quant::kept_range(i, kRanges + 1, kNarrowest);
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
