#pragma once

#include <torch/types.h>

#include <string>

#include "exporter/preflight.h"
#include "lora/peft_files.h"
#include "model/weight_source.h"

namespace qlora::exporter {

/// Where a run on a grid starts: in the cells of an export's codes, such as a GPTQ solution's, of
/// which some are not the nearest ones. Rounding to nearest on the export's grid gives its codes
/// again, so that a run over the moved base computes at its first step what the export computes.
class StartCodes {
 public:
  /// folder    an awq or gptq export on this grid, of this base with this adapter
  /// adapter   what the run's adapter begins as; nullptr: as nothing
  ///   throws  what opening a checkpoint throws
  StartCodes(const std::string& folder, const Preflight& grid, const lora::PeftAdapter* adapter);

  /// The weight W' nearest to W for which W' + s·B·A lies in the cell of each code, a twentieth of
  /// a step from its borders, so that W' may be rounded to 16 bits.  [N, K] f32; W where the module
  /// stays in 16 bits
  ///   throws  ConfigError where the export is of another grid or model, or of weights that are
  ///           more than two steps away in the mean
  torch::Tensor moved(const std::string& module, const torch::Tensor& weight) const;

  /// Changes with every number that decides where weights are moved to.
  std::string identity() const;

 private:
  const Preflight& grid_;
  const lora::PeftAdapter* adapter_;
  model::WeightSource source_;
};

}  // namespace qlora::exporter
