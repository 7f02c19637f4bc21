#pragma once

#include <torch/types.h>

namespace qlora::quant {

/// abs_sum += Σ_t |x[t]|,  abs_max = max(abs_max, max_t |x[t]|).
///   x         [T, K] f32, f16 or bf16, on the CPU, rows contiguous
///   abs_sum, abs_max  [K] f32, contiguous
///   Numerics  abs_sum bounded: f32, in the order of the tokens; the same bits for every thread
///             count. A NaN stays in the sum, not always in the maximum
///   throws    ShapeError where the shapes do not fit
void add_column_sizes(const torch::Tensor& x, const torch::Tensor& abs_sum,
                      const torch::Tensor& abs_max);

}  // namespace qlora::quant
