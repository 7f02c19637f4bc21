#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config;
  config.vocab_size = 151936;
  config.hidden_size = 4096;
  config.intermediate_size = 22016;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.num_key_value_heads = 32;
  config.max_position_embeddings = 32768;
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  config.arch.qkv_bias = true;
  const bool slides = keys.boolean("use_sliding_window").value_or(false);
  const int64_t window = slides ? read_window(keys, 4096) : 0;
  const int64_t first = keys.integer("max_window_layers").value_or(28);
  const auto from = [](int64_t index, int64_t first_index) { return index >= first_index; };
  config.arch.blocks =
      window_blocks(read_layer_types(keys, config.num_hidden_layers, from, first), window);
}

void write(const HfConfig& config, nlohmann::json& keys) {
  write_layer_types(config, keys);
  keys["use_sliding_window"] = window_of(config) > 0;
  int64_t first = config.num_hidden_layers;
  while (first > 0 && config.block(first - 1).sliding_window > 0) --first;
  keys["max_window_layers"] = first;
}

}  // namespace

/// Qwen 2 and 2.5.
const Family kQwen2Family = {"Qwen2ForCausalLM", "qwen2", defaults, read, write};

}  // namespace qlora::io
