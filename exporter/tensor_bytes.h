#pragma once

#include "exporter/block_quantizer.h"
#include "io/safetensors.h"

namespace qlora::exporter {

/// The bytes of a contiguous CPU tensor as a safetensors entry; they live as long as the tensor.
///   throws    ValueError for a number type that safetensors files of models do not hold
io::TensorView tensor_view(const NamedTensor& named);

}  // namespace qlora::exporter
