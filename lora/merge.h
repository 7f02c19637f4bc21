#pragma once

#include <torch/types.h>

#include "lora/adapter.h"

namespace qlora::lora {

/// W + s·B·A: the one function by which an adapter becomes part of a weight, in training on the
/// export grid and in the exporter.
///   weight    [N, K] f32, CPU, contiguous; not changed
///   adapter   A and B are rounded to its dtype first, as its files hold them
///   returns   [N, K] f32
///   Numerics  bit-exact on every target and thread count: d = Σ_r fma(B[n, r], A[r, k]) with
///             rising r, then fma(s, d, w)
///   throws    ShapeError where A [R, K] and B [N, R] do not fit
///   cost      2 N K R operations
torch::Tensor merged_weight(const torch::Tensor& weight, const Adapter& adapter);

}  // namespace qlora::lora
