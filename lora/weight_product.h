#pragma once

#include <torch/types.h>

#include "lora/frozen_weight.h"

namespace qlora::lora {

// Products with a frozen weight W [N, K], whatever its form. On the CPU a quantized weight is
// decoded whole into one buffer and multiplied by lora/product.h; on a CUDA device it is decoded
// tile by tile beside the product (lora/tiled_weight.h), or, for at most four rows of x, multiplied
// straight from its 4 or 8 bit codes (quant/gemv.h). No graph is recorded.
//   x, dy     [T, K] and [T, N] f32, f16 or bf16, where the weight is
//   Numerics  bounded, in the type of x; on a device a sum over tiles is rounded once a tile
//   throws    ShapeError where the widths do not fit; DeviceError for tensors on several devices

/// x·Wᵀ.  [T, N]
torch::Tensor weight_product(const torch::Tensor& x, const FrozenWeight& weight);
/// sum += x·Wᵀ.
void add_weight_product(const torch::Tensor& sum, const torch::Tensor& x,
                        const FrozenWeight& weight);
/// dy·W.  [T, K]
torch::Tensor weight_gradient(const torch::Tensor& dy, const FrozenWeight& weight);
/// sum += dy·W.
void add_weight_gradient(const torch::Tensor& sum, const torch::Tensor& dy,
                         const FrozenWeight& weight);

}  // namespace qlora::lora
