#pragma once

#include <torch/types.h>

#include "model/model_options.h"

namespace qlora::model {

/// The number type that `auto` means on this machine: BF16 where the CPU multiplies it, else FP32.
torch::ScalarType resolve_compute_dtype(ComputeDtype choice);

}  // namespace qlora::model
