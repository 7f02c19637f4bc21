#pragma once

#include <torch/types.h>

#include "model/model_options.h"

namespace qlora::model {

/// The number type that `auto` means: BF16 on a GPU and where the CPU multiplies it, else FP32.
torch::ScalarType resolve_compute_dtype(ComputeDtype choice, bool is_cuda = false);

}  // namespace qlora::model
