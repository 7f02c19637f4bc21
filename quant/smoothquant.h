#pragma once

#include <torch/types.h>

#include <span>

#include "quant/linear_statistics.h"

namespace qlora::quant {

/// Scales that move the range of the inputs into the weights: s_j = max|x_j|^α / max|w_j|^(1-α).
/// The weights' columns are multiplied by them, what makes the inputs is divided by them.
///   weights     [N_i, K] f32 each, reading the same inputs; max|w_j| is over all of them
///   alpha       0 (all in the inputs) to 1 (all in the weights)
///   returns     [K] f32, positive and finite; 1 where the input or the weights are always 0
///   throws      ConfigError for alpha; ValueError where something is not finite; ShapeError
///   Source      Xiao et al., SmoothQuant, arXiv:2211.10438, equation 4
torch::Tensor smoothquant_scales(std::span<const torch::Tensor> weights,
                                 const LinearStatistics& statistics, double alpha = 0.5);

}  // namespace qlora::quant
