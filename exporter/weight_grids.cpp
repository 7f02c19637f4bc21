#include "exporter/weight_grids.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"
#include "model/weight_source.h"
#include "quant/packed_affine.h"

namespace qlora::exporter {
namespace {

using quant::InputRounding;

std::shared_ptr<lora::HeldGrid> empty_grid(const ModuleGrid& module, const QatOptions& qat) {
  auto held = std::make_shared<lora::HeldGrid>();
  held->fit = qat.scales == QatScales::kMinMax ? lora::GridFit::kRange : lora::GridFit::kClip;
  held->scales = at::zeros({module.rows, module.groups()}, torch::kFloat32);
  held->zeros = at::zeros({module.rows, module.groups()}, torch::kUInt8);
  if (qat.scales == QatScales::kLearned) {
    held->factor = at::ones({module.rows, module.groups()}, torch::kFloat32).requires_grad_(true);
  }
  return held;
}

/// Scales and zero points of a linear of another export of this model.
void take_grid(const model::WeightSource& source, const ModuleGrid& module,
               const quant::AffineOptions& options, lora::HeldGrid& held) {
  const std::string path = source.checkpoint().path().string();
  QLORA_CHECK(source.checkpoint().has(module.name + ".weight") && source.is_packed(module.name),
              ConfigError,
              "[qat] grid_from: {} holds no quantized {}; name an export of this model", path,
              module.name);
  const lora::FrozenWeight weight = source.packed(module.name);
  QLORA_CHECK(weight.holds<quant::PackedAffine>(), ConfigError,
              "[qat] grid_from: {} of {} is on no integer grid; name an awq or gptq export",
              module.name, path);
  const quant::AffineTensor grids = quant::unpack_affine(weight.as<quant::PackedAffine>());
  QLORA_CHECK(grids.options.bits == options.bits && !grids.group_of.defined() &&
                  grids.scales.sizes() == held.scales.sizes(),
              ConfigError,
              "[qat] grid_from: {} of {} has {} bits and scales {}{}, this run needs {} bits and "
              "scales {} in order; export it on the grid of section qat, with desc_act false",
              module.name, path, grids.options.bits, c10::str(grids.scales.sizes()),
              grids.group_of.defined() ? " in another order of columns" : "", options.bits,
              c10::str(held.scales.sizes()));
  const auto least = grids.zeros.min().item<uint8_t>();
  QLORA_CHECK(least >= options.least_zero, ConfigError,
              "[qat] grid_from: {} of {} has the zero point {}, this run's layout holds {} and "
              "more; take the grid of an export in the same layout",
              module.name, path, least, options.least_zero);
  held.scales.copy_(grids.scales);
  held.zeros.copy_(grids.zeros);
  held.fit = lora::GridFit::kGiven;
}

void set_inputs(const ResolvedGrid& grid, const QatOptions& qat, lora::LinearGrid& linear) {
  if (grid.type != QuantizationType::kFp8 && grid.type != QuantizationType::kSmoothquant) return;
  const bool is_fp8 = grid.type == QuantizationType::kFp8;
  const bool is_static = is_fp8 ? grid.static_fp8 : grid.static_int8;
  const InputRounding rounding =
      is_static ? (is_fp8 ? InputRounding::kFp8Static : InputRounding::kInt8Static)
                : (is_fp8 ? InputRounding::kFp8PerToken : InputRounding::kInt8PerToken);
  linear.inputs = quant::InputQuantizer{.rounding = rounding};
  if (is_static) {
    linear.observer =
        std::make_shared<quant::InputObserver>(qat.observer, rounding, quant::ScaleType::kF16);
  }
}

}  // namespace

TrainedGrids weight_grids(const Preflight& preflight, const QatOptions& qat) {
  TrainedGrids grids;
  std::optional<model::WeightSource> given;
  if (!qat.grid_from.empty()) given.emplace(qat.grid_from);
  for (const ModuleGrid& module : preflight.modules) {
    if (!module.is_quantized()) continue;
    const auto options = affine_options(preflight.grid, module.bits, module.group_size);
    lora::LinearGrid& grid = grids[module.name];
    set_inputs(preflight.grid, qat, grid);
    if (preflight.grid.type == QuantizationType::kFp8) {
      grid.weight = lora::Fp8Grid{options.scale_type, preflight.grid.static_fp8};
      continue;
    }
    grid.weight = options;
    if (!qat.holds_grids()) continue;
    grid.held = empty_grid(module, qat);
    if (given) take_grid(*given, module, options, *grid.held);
  }
  return grids;
}

}  // namespace qlora::exporter
