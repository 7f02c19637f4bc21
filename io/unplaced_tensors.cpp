#include "io/unplaced_tensors.h"

#include <algorithm>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {
namespace {

/// Buffers that no model reads: transformers computes them.
bool is_buffer(std::string_view name) {
  return name.find("rotary_emb.") != std::string_view::npos || name.ends_with("masked_bias") ||
         name.ends_with("position_ids");
}

bool is_multimodal_part(std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  return name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.");
}

/// Scales that engines read for themselves: of the KV cache, and of what stays in 16 bits.
bool is_scale(std::string_view name) {
  constexpr std::string_view kEndings[] = {
      ".k_scale",     ".v_scale",      ".q_scale",      ".prob_scale",
      ".input_scale", ".output_scale", ".weight_scale", ".weight_zero_point",
      ".scales",      ".qzeros",       ".g_idx",        ".weight_format"};
  return std::any_of(std::begin(kEndings), std::end(kEndings),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

/// "a.b.weight.absmax" lies below "a.b".
bool is_below_packed(std::string_view name, const PlacedTensors& placed) {
  for (size_t dot = name.rfind('.'); dot != std::string_view::npos; dot = name.rfind('.')) {
    name = name.substr(0, dot);
    if (placed.modules.contains(name)) return true;
  }
  return false;
}

bool is_zero(const SafetensorsReader& reader, const TensorView& tensor) {
  const bool zero = std::all_of(tensor.bytes.begin(), tensor.bytes.end(),
                                [](std::byte byte) { return byte == std::byte{0}; });
  reader.release(tensor);
  return zero;
}

bool is_ignored(const SafetensorsReader& reader, const TensorView& tensor, const HfConfig& config,
                const PlacedTensors& placed) {
  const std::string_view name = tensor.name;
  if (is_buffer(name)) return true;
  if (config.tie_word_embeddings &&
      (name == "lm_head.weight" || name == "language_model.lm_head.weight")) {
    return true;  // Checkpoint::check_tied_weights holds it against the embedding
  }
  if (config.model_type.starts_with("gemma3") && is_multimodal_part(name)) return true;
  if (!placed.is_quantized) return false;
  if (name.ends_with(".bias")) return is_zero(reader, tensor);
  return is_scale(name) || is_below_packed(name, placed);
}

}  // namespace

void refuse_unplaced(const SafetensorsReader& reader, const HfConfig& config,
                     const PlacedTensors& placed) {
  const TensorView* first = nullptr;
  int64_t count = 0;
  for (const TensorView& tensor : reader.tensors()) {
    if (placed.names.contains(tensor.name) || is_ignored(reader, tensor, config, placed)) continue;
    if (count++ == 0) first = &tensor;
  }
  QLORA_CHECK(
      count == 0, FormatError,
      "[io] {}: the config has no place for {} of {} tensors, the first is {} {}; {} with {} "
      "blocks has none of that name: is it the config.json of these weights?",
      reader.path().string(), count, reader.tensors().size(), quote(first->name),
      shape_text(first->shape), config.architecture, config.num_hidden_layers);
}

}  // namespace qlora::io
