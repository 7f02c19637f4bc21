#pragma once

#include <string_view>
#include <unordered_set>

#include "io/hf_config.h"
#include "io/safetensors.h"

namespace qlora::io {

/// What Checkpoint took out of a Hugging Face folder.
struct PlacedTensors {
  std::unordered_set<std::string_view> names;    // of tensors
  std::unordered_set<std::string_view> modules;  // that are packed: what lies below is theirs
  bool is_quantized = false;                     // the folder is
};

/// Refuses weights that the config has no place for: a model without them is another model. Left
/// alone is what transformers ignores too: buffers of older versions, the head of tied weights, the
/// parts of a multimodal Gemma 3 that are not read, and in quantized folders scales and biases of
/// zeros, which GPTQ's first tools write beside every linear.
///   throws    FormatError naming the first such tensor and how many there are
void refuse_unplaced(const SafetensorsReader& reader, const HfConfig& config,
                     const PlacedTensors& placed);

}  // namespace qlora::io
