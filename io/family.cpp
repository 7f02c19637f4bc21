#include "io/family.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {

std::span<const Family* const> known_families() {
  static constexpr std::array kFamilies = {
      &kLlamaFamily,  &kMistralFamily, &kQwen2Family, &kQwen3Family,   &kQwen3MoeFamily,
      &kGemma2Family, &kGemma3Family,  &kPhi3Family,  &kSmolLm3Family, &kMixtralFamily};
  return kFamilies;
}

const Family& family_named(const std::string& model_type) {
  for (const Family* family : known_families()) {
    if (model_type == family->model_type) return *family;
  }
  throw FormatError(fmt::format("[io] model_type {} is not known; known are {}", quote(model_type),
                                fmt::join(known_architectures(), ", ")));
}

int64_t read_window(const JsonObject& keys, int64_t if_absent) {
  if (!keys.stands("sliding_window")) return if_absent;
  const auto window = keys.integer("sliding_window");
  if (!window) return 0;
  QLORA_CHECK(*window >= 1 && *window <= INT32_MAX, FormatError,
              "[io] {}: sliding_window is {}, 1 to {} is allowed, or null", keys.where(), *window,
              INT32_MAX);
  return *window;
}

std::vector<BlockKind> window_blocks(const std::vector<bool>& is_sliding, int64_t window) {
  std::vector<BlockKind> blocks;
  for (const bool slides : is_sliding) blocks.push_back({.sliding_window = slides ? window : 0});
  return blocks;
}

std::vector<bool> read_layer_types(const JsonObject& keys, int64_t blocks,
                                   bool (*usual)(int64_t index, int64_t parameter),
                                   int64_t parameter) {
  std::vector<bool> is_sliding;
  const nlohmann::json* types = keys.find("layer_types");
  if (types == nullptr) {
    for (int64_t i = 0; i < blocks; ++i) is_sliding.push_back(usual(i, parameter));
    return is_sliding;
  }
  const bool fits = types->is_array() && static_cast<int64_t>(types->size()) == blocks;
  if (!fits) keys.fail("layer_types", *types, fmt::format("a list of {} names", blocks));
  for (const nlohmann::json& type : *types) {
    const bool known = type == "sliding_attention" || type == "full_attention";
    if (!known) keys.fail("layer_types", type, "full_attention or sliding_attention");
    is_sliding.push_back(type == "sliding_attention");
  }
  return is_sliding;
}

int64_t window_of(const HfConfig& config) {
  for (const BlockKind& block : config.arch.blocks) {
    if (block.sliding_window > 0) return block.sliding_window;
  }
  return 0;
}

void write_window(const HfConfig& config, nlohmann::json& keys) {
  const int64_t window = window_of(config);
  keys["sliding_window"] = window > 0 ? nlohmann::json(window) : nlohmann::json();
}

void write_layer_types(const HfConfig& config, nlohmann::json& keys) {
  write_window(config, keys);
  nlohmann::json types = nlohmann::json::array();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    types.push_back(config.block(i).sliding_window > 0 ? "sliding_attention" : "full_attention");
  }
  keys["layer_types"] = types;
}

void read_attention_bias(const JsonObject& keys, HfConfig& config) {
  config.arch.qkv_bias = keys.boolean("attention_bias").value_or(false);
  config.arch.output_bias = config.arch.qkv_bias;
}

void refuse_switched_on(const JsonObject& keys, const char* key) {
  const nlohmann::json* value = keys.find(key);
  if (value == nullptr || *value == false || *value == 0) return;
  keys.fail(key, *value, "that it is off, which is all that is computed,");
}

}  // namespace qlora::io
