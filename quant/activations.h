#pragma once

#include <torch/types.h>

namespace qlora::quant {

// What an engine makes of a linear's inputs at run time, and back: for measuring models whose
// activations are quantized too. Inputs [..., K] of any float type and device; the result has the
// same type. Numbers that are not finite stay so, or become NaN.

/// Each token on its own symmetric 8-bit grid, scale max|x| / 127.
torch::Tensor rounded_activations_int8(const torch::Tensor& x);

/// Each token in E4M3, scale max|x| / 448.
torch::Tensor rounded_activations_fp8(const torch::Tensor& x);

/// All tokens in E4M3 with one scale [1]; what lies beyond 448 scales is cut.
///   throws    ValueError for a scale that is not positive and finite
torch::Tensor rounded_activations_fp8(const torch::Tensor& x, const torch::Tensor& scale);

}  // namespace qlora::quant
