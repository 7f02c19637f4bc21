#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "exporter/preflight.h"
#include "exporter/qat_options.h"
#include "lora/fake_quant.h"
#include "model/weight_source.h"
#include "quant/affine.h"

namespace qlora::exporter {

/// What a run rounds its linears to, by module.
using TrainedGrids = std::map<std::string, lora::LinearGrid>;

/// A linear of an awq or gptq export of this model, on the grid of a run.
///   key       of section qat that names the export, for messages
///   throws    ConfigError where the export is of another grid, layout or model
quant::AffineTensor codes_of_export(const model::WeightSource& source, const ModuleGrid& module,
                                    const quant::AffineOptions& options, const char* key);

/// What training rounds each linear to, so that exporting the same preflight rounds it alike.
/// Modules that stay in 16 bits are left out. Held grids are not fitted yet (those of qat.grid_from
/// are read), learned factors are 1, observers have seen nothing.
///   Requires  a grid of qat_grid(qat, …)
///   throws    ConfigError, ShapeError where the export in qat.grid_from is of another grid or
///   model
TrainedGrids weight_grids(const Preflight& preflight, const QatOptions& qat);

/// The same, but the export in qat.grid_from is not needed: numbers are read from a kGridFile
/// later.
TrainedGrids grids_to_restore(const Preflight& preflight, const QatOptions& qat);

/// What an adapter of such a run was trained on.
///   adapter   its folder, with what training moved of the grids
///   throws    what lora::read_grids throws
TrainedGrids trained_grids(const Preflight& preflight, const QatOptions& qat,
                           const std::filesystem::path& adapter);

}  // namespace qlora::exporter
