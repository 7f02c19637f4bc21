#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config;
  config.vocab_size = 32000;
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.num_key_value_heads = 8;
  config.max_position_embeddings = 4096 * 32;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  const auto blocks = static_cast<size_t>(config.num_hidden_layers);
  config.arch.blocks = window_blocks(std::vector<bool>(blocks, true), read_window(keys, 4096));
}

void write(const HfConfig& config, nlohmann::json& keys) {
  write_window(config, keys);
}

}  // namespace

const Family kMistralFamily = {"MistralForCausalLM", "mistral", defaults, read, write};

}  // namespace qlora::io
