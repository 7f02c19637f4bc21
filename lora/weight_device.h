#pragma once

#include <torch/types.h>

#include "lora/frozen_weight.h"

namespace qlora::lora {

/// Where the codes or numbers of a weight lie.
torch::Device device_of(const FrozenWeight& weight);

/// The weight on a device; the same one where it is there already.
FrozenWeight moved_to(const FrozenWeight& weight, torch::Device device);

}  // namespace qlora::lora
