#include "core/error.h"
#include "io/family.h"
#include "io/family_gemma.h"
#include "io/hf_rope.h"

namespace qlora::io {
namespace {

constexpr double kGlobalTheta = 1e6;
constexpr double kLocalTheta = 1e4;

HfConfig defaults() {
  HfConfig config = gemma_defaults();
  config.vocab_size = 262208;
  config.max_position_embeddings = 131072;
  config.rope.theta = kGlobalTheta;
  return config;
}

/// Every sixth block sees everything.
bool is_local(int64_t index, int64_t pattern) {
  return (index + 1) % pattern != 0;
}

void read(const JsonObject& keys, HfConfig& config) {
  read_gemma(keys, config, 0, 0);
  config.arch.has_query_key_norm = true;
  const int64_t pattern = keys.integer("sliding_window_pattern").value_or(6);
  QLORA_CHECK(pattern >= 1 && pattern <= INT32_MAX, FormatError,
              "[io] {}: sliding_window_pattern is {}, 1 to {} is allowed", keys.where(), pattern,
              INT32_MAX);
  const auto local = read_layer_types(keys, config.num_hidden_layers, is_local, pattern);
  config.arch.blocks = window_blocks(local, read_window(keys, 4096));
  for (size_t i = 0; i < local.size(); ++i) {
    if (local[i]) config.arch.blocks[i].rope = RopeUse::kLocal;
  }
  const LayeredRope rope =
      parse_layered_rope(keys, config.max_position_embeddings, kGlobalTheta, kLocalTheta);
  config.rope = rope.full;
  config.local_rope = rope.sliding;
}

void write(const HfConfig& config, nlohmann::json& keys) {
  write_gemma(config, keys);
  nlohmann::json types = nlohmann::json::array();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const bool local = config.block(i).rope == RopeUse::kLocal;
    types.push_back(local ? "sliding_attention" : "full_attention");
  }
  keys["layer_types"] = types;
  keys["rope_parameters"] = {{"full_attention", rope_to_json(config.rope)},
                             {"sliding_attention", rope_to_json(*config.local_rope)}};
  keys["rope_local_base_freq"] = config.local_rope->theta;
}

}  // namespace

/// The text part; io/hf_config.cpp takes it out of a multimodal config.json.
const Family kGemma3Family = {.architecture = "Gemma3ForCausalLM",
                              .model_type = "gemma3_text",
                              .defaults = defaults,
                              .read = read,
                              .write = write,
                              .has_layered_rope = true};

}  // namespace qlora::io
