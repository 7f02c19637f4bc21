#pragma once

#include <torch/types.h>

namespace qlora::quant {

/// gram += xᵀ·x, on the diagonal and above it; what lies below is left undefined.
///   x         [T, K] f32, f16 or bf16, on the CPU
///   gram      [K, K] f32, contiguous
///   Numerics  bounded: sums in f32. Products of bf16 numbers are exact in f32, so that bf16 inputs
///             lose nothing by a product of bf16 matrices, where the CPU has one (AVX-512); the
///             same bits for every thread count there
///   cost      K² T multiplications
///   throws    ShapeError where the shapes do not fit
void add_gram(const torch::Tensor& x, const torch::Tensor& gram);

/// The same by products of f32 matrices: the plain twin, and what other number types take.
void add_gram_composed(const torch::Tensor& x, const torch::Tensor& gram);

}  // namespace qlora::quant
