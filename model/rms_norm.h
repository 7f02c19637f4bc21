#pragma once

#include <torch/types.h>

namespace qlora::model {

/// y = weight · x / sqrt(mean(x²) + epsilon), row by row.
///   x         [T, C] f32
///   weight    [C] f32, frozen
///   returns   [T, C] in out_dtype
///   Backward  dx f32; never a gradient of weight
///   Numerics  computed in FP32, one sum a row in the order of the lanes; rounded once
///   Source    Zhang and Sennrich, arXiv:1910.07467, eq. 4
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& weight, double epsilon,
                       torch::ScalarType out_dtype);

}  // namespace qlora::model
