#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "io/quantization_config.h"
#include "io/safetensors.h"

namespace qlora::io {

/// The tensors of one quantized linear as they lie in the files.
struct QuantizedModule {
  std::string name;  // "model.layers.0.mlp.up_proj"
  QuantizedForm form;
  int64_t rows = 0;  // N
  int64_t cols = 0;  // K
  /// By the rest of their names behind the module's: "qweight", "weight.absmax". All that the form
  /// needs are there, with the types and shapes that [N, K] asks for.
  std::map<std::string, const TensorView*> parts;

  int64_t bytes() const;  // of all parts in the file
};

/// Finds and checks the tensors of a linear [rows, cols].
///   throws    FormatError, ShapeError naming the tensor, its actual and its expected type and
///   shape
QuantizedModule find_quantized_module(const SafetensorsReader& reader, const std::string& module,
                                      const QuantizedForm& form, int64_t rows, int64_t cols);

/// The 16- or 32-bit weight of a module that a quantized checkpoint left as it is; nullptr where
/// the module's weight is packed or absent.
const TensorView* find_plain_weight(const SafetensorsReader& reader, const std::string& module);

}  // namespace qlora::io
