#pragma once

#include <torch/types.h>

#include "io/architecture.h"

namespace qlora::model {

/// y = act(gate) · up with act silu, x / (1 + exp(−x)), or the tanh form of gelu ("GeGLU").
///   gate, up  [T, F] f32, f16 or bf16, both alike; y the same
///   Backward  dgate = dy·up·act'(gate), dup = dy·act(gate), with
///             silu' = σ·(1 + x·(1 − σ)), σ = sigmoid(x);
///             gelu' = (1 + t)/2 + x/2·(1 − t²)·sqrt(2/π)·(1 + 3·0.044715·x²), t the tanh in gelu
///   Numerics  computed in FP32, rounded once
///   Source    Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202, eq. 5; gelu Hendrycks
///             and Gimpel, arXiv:1606.08415, section 2
torch::Tensor swiglu(const torch::Tensor& gate, const torch::Tensor& up,
                     io::Activation activation = io::Activation::kSilu);

}  // namespace qlora::model
