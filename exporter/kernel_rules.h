#pragma once

#include "exporter/preflight.h"
#include "io/ggml_type.h"

namespace qlora::exporter {

/// What packing and the engines' kernels ask of shapes: errors where a file could not be written or
/// the named loader would refuse it, else notices and warnings.
///   Source    GPTQModel 7.7, AutoAWQ 0.2.9; vLLM: quantization/utils/marlin_utils.py
///   throws    ShapeError naming the matrix, its size and the multiple that is asked for
void check_kernels(Preflight& preflight);

/// The tensor type of a gguf_type that is decided.
io::GgmlType ggml_type(GgufType type);

}  // namespace qlora::exporter
