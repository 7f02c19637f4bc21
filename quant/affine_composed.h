#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/affine.h"

/// affine_math.h as a composition of libtorch's operations: the path of CUDA tensors, and an oracle
/// of the vectorised code. Bit-exact with it on any device. Nothing is checked here and nothing
/// waits for the device.
namespace qlora::quant::composed {

/// Scales [N, groups] f32 (infinite where they leave their type, NaN where the weight is not
/// finite) and zeros [N, groups] u8 of runs of group_size columns.
struct Grids {
  torch::Tensor scales;
  torch::Tensor zeros;
};
Grids affine_grids(const torch::Tensor& weight, int64_t group_size, const AffineOptions& options);

/// Codes [N, K] u8 of w; scales and zeros broadcast against it.
torch::Tensor affine_codes(const torch::Tensor& w, const torch::Tensor& scales,
                           const torch::Tensor& zeros, int64_t bits);

/// (codes - zeros) · scales; scales and zeros broadcast against codes.
torch::Tensor affine_values(const torch::Tensor& codes, const torch::Tensor& scales,
                            const torch::Tensor& zeros);

/// One column per column of t: scales or zeros [N, groups] spread over [N, K].
torch::Tensor spread(const torch::Tensor& grids, int64_t cols, const torch::Tensor& group_of);

}  // namespace qlora::quant::composed
