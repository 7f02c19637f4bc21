#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config;
  config.max_position_embeddings = 2048;
  config.bos_token_id = 1;
  config.eos_token_ids = {2};
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  read_attention_bias(keys, config);
  config.arch.mlp_bias = keys.boolean("mlp_bias").value_or(false);
}

void write(const HfConfig& config, nlohmann::json& keys) {
  keys["attention_bias"] = config.arch.qkv_bias;
  keys["mlp_bias"] = config.arch.mlp_bias;
}

}  // namespace

/// Llama 1 to 3.3 and all that took their architecture (SmolLM2).
const Family kLlamaFamily = {"LlamaForCausalLM", "llama", defaults, read, write};

}  // namespace qlora::io
