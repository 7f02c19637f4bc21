#pragma once

#include <torch/types.h>

#include <cstdint>

namespace qlora::quant {

/// What calibration knows of the inputs x [K] of a linear, summed over all tokens.
///   Memory    4 K² bytes; the same for every linear that reads the same activations
struct LinearStatistics {
  torch::Tensor gram;     // [K, K] f32, Σ x xᵀ, symmetric
  torch::Tensor abs_sum;  // [K] f32, Σ |x|
  torch::Tensor abs_max;  // [K] f32, max |x|
  int64_t tokens = 0;

  /// Statistics of x ⊘ s, for a scale vector s [K] that is folded into what makes x.
  LinearStatistics divided_by(const torch::Tensor& s) const;
};

/// throws ShapeError where the Gram matrix is missing, empty or not square
void check_gram(const LinearStatistics& statistics);

/// throws ValueError where no token was counted
void check_tokens(const LinearStatistics& statistics);

/// Weighted squared error Σ_tokens |D x|² / tokens = tr(D · gram · Dᵀ) / tokens, summed in FP64.
///   difference  [N, K] f32: quantized minus original weight
double output_error(const torch::Tensor& difference, const LinearStatistics& statistics);

}  // namespace qlora::quant
