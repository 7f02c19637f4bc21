#pragma once

#include <torch/types.h>

#include <span>

#include "quant/affine_options.h"
#include "quant/awq_options.h"
#include "quant/linear_statistics.h"

namespace qlora::quant {

/// Scales of the inputs of one or more weights: the weights' columns are multiplied by them, what
/// makes the inputs is divided by them.
struct AwqScales {
  torch::Tensor scales;      // [K] f32, positive; all 1 where nothing was better
  double alpha = 0;          // exponent of the activations
  bool uses_weight = false;  // the form with the weights' own size
  double loss_before = 0;    // Σ output_error of rounding the weights as they are,
  double loss = 0;           // and with the scales
};

/// Scales of least rounding error: s = a^α, and a^α / b^(1-α), for a = mean |x| and b = the mean
/// over rows of |w| / max|w| in its group, each divided by sqrt(max s · min s).
///   weights     [N_i, K] f32 each, reading the same inputs
///   statistics  of these inputs, undivided
///   Loss        Σ_i tr(D_i G D_iᵀ) / tokens with D_i = Q(W_i · s) / s - W_i: exact for these
///               tokens
///   throws      ValueError where a weight or the statistics are not finite; ShapeError where sizes
///               do not fit; as checked_group_size
///   Source      Lin et al., AWQ, arXiv:2306.00978, section 3.2; the second form: AutoAWQ
AwqScales awq_scales(std::span<const torch::Tensor> weights, const LinearStatistics& statistics,
                     const AffineOptions& affine, const AwqOptions& options);

/// Greatest magnitude that each group keeps so that its own rounding error dᵀ G_gg d is least;
/// G_gg is the part of the Gram matrix that belongs to the group's columns.
///   weight      [N, K] f32, scaled already
///   statistics  of its inputs, divided by the scales already
///   returns     [N, groups] f32: for clipped()
torch::Tensor awq_clip(const torch::Tensor& weight, const LinearStatistics& statistics,
                       const AffineOptions& affine, const AwqOptions& options);

/// The weight with each group's elements cut to ±magnitudes [N, groups].
torch::Tensor clipped(const torch::Tensor& weight, const torch::Tensor& magnitudes);

}  // namespace qlora::quant
