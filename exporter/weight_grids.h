#pragma once

#include <map>
#include <string>

#include "exporter/preflight.h"
#include "exporter/qat_options.h"
#include "lora/fake_quant.h"

namespace qlora::exporter {

/// What a run rounds its linears to, by module.
using TrainedGrids = std::map<std::string, lora::LinearGrid>;

/// What training rounds each linear to, so that exporting the same preflight rounds it alike.
/// Modules that stay in 16 bits are left out. Held grids are not fitted yet (those of qat.grid_from
/// are read), learned factors are 1, observers have seen nothing.
///   Requires  a grid of qat_grid(qat, …)
///   throws    ConfigError, ShapeError where the export in qat.grid_from is of another grid or
///   model
TrainedGrids weight_grids(const Preflight& preflight, const QatOptions& qat);

}  // namespace qlora::exporter
