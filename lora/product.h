#pragma once

#include <torch/types.h>

namespace qlora::lora {

/// x·m.
///   x         [T, K] f32, f16 or bf16
///   m         [K, N] of the same type, any strides
///   returns   [T, N]; no graph is recorded
///   Numerics  bounded, as libtorch's product. The same bits for the same shapes and thread count
///   Threads   oneDNN leaves some shapes to one thread: those are shared out by rows here
torch::Tensor product(const torch::Tensor& x, const torch::Tensor& m);

/// sum += x·m, summed in FP32 inside the product and rounded once. Rounding the product first would
/// put it on the grid of a half type, where a young adapter's small change is always lost.
///   sum       [T, N]
void add_product(const torch::Tensor& sum, const torch::Tensor& x, const torch::Tensor& m);

}  // namespace qlora::lora
