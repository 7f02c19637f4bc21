#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/affine_options.h"

namespace qlora::quant::composed {

/// awq_backend.h as a composition of libtorch's operations: the path of CUDA tensors, and an oracle
/// of the vectorised code.
///   Numerics  bounded: the quadratic forms are summed in libtorch's order
torch::Tensor awq_clip(const torch::Tensor& weight, const torch::Tensor& gram,
                       const AffineOptions& affine, int64_t group_size, int64_t steps,
                       int64_t tried);

}  // namespace qlora::quant::composed
