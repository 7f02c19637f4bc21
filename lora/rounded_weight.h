#pragma once

#include <torch/types.h>

#include "lora/fake_quant.h"
#include "quant/affine.h"
#include "quant/fp8.h"

namespace qlora::lora {

/// A merged weight on the grid that it was trained on: the codes that ship.
///   merged    [N, K] f32, as merged_or_plain
///   Requires  grid.weight of that kind
///   throws    as fake_quantized
quant::AffineTensor affine_on_grid(const torch::Tensor& merged, const LinearGrid& grid);
quant::Fp8Tensor fp8_on_grid(const torch::Tensor& merged, const LinearGrid& grid);

/// Q(W + s·B·A) as codes that each product decodes, with the rounding of inputs that goes with it:
/// what takes the place of weight, adapter and grid where nothing is trained any more.
///   Numerics  decodes to the bits of fake_quantized
///   Memory    the merged matrix in f32 while it is rounded
FrozenWeight rounded_weight(const FrozenWeight& weight, const Adapter* adapter,
                            const LinearGrid& grid);

}  // namespace qlora::lora
