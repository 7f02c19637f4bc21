#pragma once

#include <torch/types.h>

namespace qlora::model {

/// y = silu(gate) · up,  silu(x) = x / (1 + exp(−x)).
///   gate, up  [T, F] f32, f16 or bf16, both alike; y the same
///   Backward  dgate = dy·up·σ·(1 + gate·(1 − σ)), dup = dy·silu(gate), σ = sigmoid(gate)
///   Numerics  computed in FP32, rounded once
///   Source    Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202, eq. 5
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up);

}  // namespace qlora::model
