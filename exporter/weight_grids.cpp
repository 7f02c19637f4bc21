#include "exporter/weight_grids.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "core/error.h"
#include "io/atomic_file.h"
#include "lora/grid_files.h"
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
  held->is_anchored = qat.scales == QatScales::kAnchored;
  if (qat.learns_scales()) {
    held->factor = at::ones({module.rows, module.groups()}, torch::kFloat32).requires_grad_(true);
  }
  return held;
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

/// given     the export in qat.grid_from; nullptr: its numbers are not looked at
TrainedGrids grids_of(const Preflight& preflight, const QatOptions& qat,
                      const model::WeightSource* given) {
  TrainedGrids grids;
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
    if (!qat.grid_from.empty()) grid.held->fit = lora::GridFit::kGiven;
    if (given == nullptr) continue;
    const quant::AffineTensor codes = codes_of_export(*given, module, options, "grid_from");
    grid.held->scales.copy_(codes.scales);
    grid.held->zeros.copy_(codes.zeros);
  }
  return grids;
}

}  // namespace

quant::AffineTensor codes_of_export(const model::WeightSource& source, const ModuleGrid& module,
                                    const quant::AffineOptions& options, const char* key) {
  const std::string path = source.checkpoint().path().string();
  QLORA_CHECK(source.checkpoint().has(module.name + ".weight") && source.is_packed(module.name),
              ConfigError, "[qat] {}: {} holds no quantized {}; name an export of this model", key,
              path, module.name);
  const lora::FrozenWeight weight = source.packed(module.name);
  QLORA_CHECK(weight.holds<quant::PackedAffine>(), ConfigError,
              "[qat] {}: {} of {} is on no integer grid; name an awq or gptq export", key,
              module.name, path);
  quant::AffineTensor codes = quant::unpack_affine(weight.as<quant::PackedAffine>());
  const std::vector<int64_t> wanted = {module.rows, module.groups()};
  QLORA_CHECK(codes.options.bits == options.bits && !codes.group_of.defined() &&
                  codes.scales.sizes() == at::IntArrayRef(wanted),
              ConfigError,
              "[qat] {}: {} of {} has {} bits and scales {}{}, this run needs {} bits and scales "
              "{} in order; export it on the grid of section qat, with desc_act false",
              key, module.name, path, codes.options.bits, c10::str(codes.scales.sizes()),
              codes.group_of.defined() ? " in another order of columns" : "", options.bits,
              c10::str(at::IntArrayRef(wanted)));
  const auto least = codes.zeros.min().item<uint8_t>(), most = codes.zeros.max().item<uint8_t>();
  QLORA_CHECK(least >= options.least_zero, ConfigError,
              "[qat] {}: {} of {} has the zero point {}, this run's layout holds {} and more; take "
              "the grid of an export in the same layout",
              key, module.name, path, least, options.least_zero);
  const int middle = 1 << (options.bits - 1);
  const bool is_symmetric = options.rule != quant::GridRule::kAsymmetric;
  QLORA_CHECK(!is_symmetric || (least == middle && most == middle), ConfigError,
              "[qat] {}: {} of {} has zero points from {} to {}, but this run's grid is symmetric, "
              "where all are {}; set qat.symmetric=false",
              key, module.name, path, least, most, middle);
  return codes;
}

TrainedGrids weight_grids(const Preflight& preflight, const QatOptions& qat) {
  if (qat.grid_from.empty()) return grids_of(preflight, qat, nullptr);
  QLORA_CHECK(io::is_present(qat.grid_from), ConfigError,
              "[qat] grid_from is {}, which is not there; name the folder of an awq or gptq export",
              qat.grid_from);
  const model::WeightSource given(qat.grid_from);
  return grids_of(preflight, qat, &given);
}

TrainedGrids grids_to_restore(const Preflight& preflight, const QatOptions& qat) {
  return grids_of(preflight, qat, nullptr);
}

TrainedGrids trained_grids(const Preflight& preflight, const QatOptions& qat,
                           const std::filesystem::path& adapter) {
  TrainedGrids grids = grids_to_restore(preflight, qat);
  lora::read_grids(adapter, grids);
  return grids;
}

}  // namespace qlora::exporter
