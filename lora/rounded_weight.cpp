#include "lora/rounded_weight.h"

#include "quant/packed_affine.h"

namespace qlora::lora {

quant::AffineTensor affine_on_grid(const torch::Tensor& merged, const LinearGrid& grid) {
  const auto& options = std::get<quant::AffineOptions>(grid.weight);
  if (grid.held == nullptr) return quant::quantize_affine(merged, options);
  quant::AffineTensor rounded{.scales = grid.held->of_codes(options.scale_type),
                              .zeros = grid.held->zeros,
                              .options = options};
  quant::requantize_affine(merged, rounded);
  rounded.scales = grid.held->effective(options.scale_type);
  return rounded;
}

quant::Fp8Tensor fp8_on_grid(const torch::Tensor& merged, const LinearGrid& grid) {
  const auto& options = std::get<Fp8Grid>(grid.weight);
  const auto scaling = options.whole_matrix ? quant::Fp8Scaling::kTensor : quant::Fp8Scaling::kRow;
  return quant::quantize_fp8(merged, scaling, options.scale_type);
}

FrozenWeight rounded_weight(const FrozenWeight& weight, const Adapter* adapter,
                            const LinearGrid& grid) {
  const torch::Tensor merged = merged_or_plain(weight, adapter);
  FrozenWeight rounded = std::holds_alternative<Fp8Grid>(grid.weight)
                             ? FrozenWeight(fp8_on_grid(merged, grid))
                             : FrozenWeight(quant::pack_affine(affine_on_grid(merged, grid)));
  if (const auto inputs = grid.input_quantizer()) rounded.set_input_quantizer(*inputs);
  return rounded;
}

}  // namespace qlora::lora
