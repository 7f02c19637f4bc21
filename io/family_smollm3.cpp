#include "core/error.h"
#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config;
  config.vocab_size = 128256;
  config.hidden_size = 2048;
  config.intermediate_size = 11008;
  config.num_hidden_layers = 36;
  config.num_attention_heads = 16;
  config.num_key_value_heads = 4;
  config.max_position_embeddings = 32768;
  config.bos_token_id = 128000;
  config.eos_token_ids = {128001};
  config.pad_token_id = 128004;
  config.tie_word_embeddings = true;
  config.rope.theta = 2e6;
  return config;
}

/// 1 where a block turns its queries and keys: no_rope_layers, or all but every fourth.
std::vector<bool> blocks_that_turn(const JsonObject& keys, int64_t blocks) {
  std::vector<bool> turn;
  if (const nlohmann::json* list = keys.find("no_rope_layers")) {
    const bool fits = list->is_array() && static_cast<int64_t>(list->size()) >= blocks;
    if (!fits) keys.fail("no_rope_layers", *list, fmt::format("a list of {} numbers", blocks));
    for (size_t i = 0; i < static_cast<size_t>(blocks); ++i) {
      const nlohmann::json& value = (*list)[i];
      if (value != 0 && value != 1) keys.fail("no_rope_layers", value, "0 or 1");
      turn.push_back(value == 1);
    }
    return turn;
  }
  const int64_t interval = keys.integer("no_rope_layer_interval").value_or(4);
  QLORA_CHECK(interval >= 1 && interval <= INT32_MAX, FormatError,
              "[io] {}: no_rope_layer_interval is {}, 1 to {} is allowed", keys.where(), interval,
              INT32_MAX);
  for (int64_t i = 0; i < blocks; ++i) turn.push_back((i + 1) % interval != 0);
  return turn;
}

void read(const JsonObject& keys, HfConfig& config) {
  kLlamaFamily.read(keys, config);
  const auto turn = blocks_that_turn(keys, config.num_hidden_layers);
  const bool slides = keys.boolean("use_sliding_window").value_or(false);
  const int64_t window = slides ? read_window(keys, 0) : 0;
  const auto never = [](int64_t, int64_t) { return false; };
  std::vector<bool> is_sliding = read_layer_types(keys, config.num_hidden_layers, never, 0);
  if (keys.find("layer_types") == nullptr) {
    for (size_t i = 0; i < turn.size(); ++i) is_sliding[i] = !turn[i];
  }
  config.arch.blocks = window_blocks(is_sliding, window);
  for (size_t i = 0; i < turn.size(); ++i) {
    if (!turn[i]) config.arch.blocks[i].rope = RopeUse::kNone;
  }
}

void write(const HfConfig& config, nlohmann::json& keys) {
  kLlamaFamily.write(config, keys);
  write_layer_types(config, keys);
  keys["use_sliding_window"] = window_of(config) > 0;
  nlohmann::json turn = nlohmann::json::array();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    turn.push_back(config.block(i).rope == RopeUse::kNone ? 0 : 1);
  }
  keys["no_rope_layers"] = turn;
}

}  // namespace

const Family kSmolLm3Family = {"SmolLM3ForCausalLM", "smollm3", defaults, read, write};

}  // namespace qlora::io
