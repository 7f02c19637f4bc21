#pragma once

#include <torch/types.h>

#include "quant/nf4.h"
#include "quant/packed_affine.h"

namespace qlora::quant {

/// y = x·Wᵀ straight from the codes, for few rows of x: a generated token's product, which reads
/// each code once and writes no decoded weight. quant/gemv_backend.h has the contract and the
/// bound.
///   Shapes    x [T, K], y [T, N]: contiguous, of one type (f32, f16, bf16), where the weight is
///   throws    ShapeError, ValueError (type), DeviceError (another device)
void gemv_into(const Nf4Tensor& weight, const torch::Tensor& x, const torch::Tensor& y);
void gemv_into(const PackedAffine& weight, const torch::Tensor& x, const torch::Tensor& y);

}  // namespace qlora::quant
