#pragma once

#include <string>

#include "lora/fake_quant.h"
#include "quant/affine.h"

namespace qlora::lora {

/// Fits a held grid to the merged weight as it is now. Learned factors become 1. A grid that was
/// given stays.
///   grid      its held tensors are changed in place
///   throws    ValueError naming the module where a number or a scale is not finite
///   cost      kClip tries 20 ranges beside the whole one: 21 roundings of the weight
void fit_held_grid(const std::string& module, const FrozenWeight& weight, const Adapter* adapter,
                   const LinearGrid& grid);

/// Grids whose ranges are narrowed, group by group, to the least squared error of rounding.
///   weight    [N, K] f32
///   returns   without codes
quant::AffineTensor clipped_grids(const torch::Tensor& weight, const quant::AffineOptions& options);

/// The same range by range over the whole matrix: the plain twin.
quant::AffineTensor clipped_grids_composed(const torch::Tensor& weight,
                                           const quant::AffineOptions& options);

}  // namespace qlora::lora
