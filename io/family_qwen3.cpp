#include <algorithm>

#include "core/error.h"
#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config = kQwen2Family.defaults();
  config.head_dim = 128;
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  kQwen2Family.read(keys, config);
  read_attention_bias(keys, config);
  config.arch.has_query_key_norm = true;
}

void write(const HfConfig& config, nlohmann::json& keys) {
  kQwen2Family.write(config, keys);
  keys["attention_bias"] = config.arch.qkv_bias;
}

HfConfig moe_defaults() {
  HfConfig config = kQwen2Family.defaults();
  config.hidden_size = 2048;
  config.intermediate_size = 6144;
  config.num_hidden_layers = 24;
  config.num_key_value_heads = 4;
  return config;
}

/// Blocks that mlp_only_layers names have one MLP, as have those that decoder_sparse_step skips.
std::vector<bool> blocks_with_experts(const JsonObject& keys, int64_t blocks) {
  const int64_t step = keys.integer("decoder_sparse_step").value_or(1);
  QLORA_CHECK(step >= 1 && step <= blocks, FormatError,
              "[io] {}: decoder_sparse_step is {}, 1 to {} is allowed", keys.where(), step, blocks);
  std::vector<bool> has(static_cast<size_t>(blocks));
  for (int64_t i = 0; i < blocks; ++i) has[static_cast<size_t>(i)] = (i + 1) % step == 0;
  const nlohmann::json* dense = keys.find("mlp_only_layers");
  if (dense == nullptr) return has;
  if (!dense->is_array()) keys.fail("mlp_only_layers", *dense, "a list of blocks");
  for (const nlohmann::json& index : *dense) {
    const bool fits =
        index.is_number_unsigned() && index.get<uint64_t>() < static_cast<uint64_t>(blocks);
    if (!fits) keys.fail("mlp_only_layers", index, fmt::format("a block below {}", blocks));
    has[index.get<size_t>()] = false;
  }
  return has;
}

void moe_read(const JsonObject& keys, HfConfig& config) {
  read_attention_bias(keys, config);
  Architecture& arch = config.arch;
  arch.has_query_key_norm = true;
  const bool slides = keys.boolean("use_sliding_window").value_or(false);
  const auto blocks = static_cast<size_t>(config.num_hidden_layers);
  arch.blocks =
      window_blocks(std::vector<bool>(blocks, true), slides ? read_window(keys, 4096) : 0);
  const auto has = blocks_with_experts(keys, config.num_hidden_layers);
  for (size_t i = 0; i < blocks; ++i) arch.blocks[i].has_experts = has[i];
  // Two names of one key: older files have the first, newer ones may have the second.
  arch.experts = {
      .count =
          keys.integer("num_experts").value_or(keys.integer("num_local_experts").value_or(128)),
      .used = keys.integer("num_experts_per_tok").value_or(8),
      .intermediate_size = keys.integer("moe_intermediate_size").value_or(768),
      .sums_to_one = keys.boolean("norm_topk_prob").value_or(false),
      .names = Experts::Names::kQwen};
}

void moe_write(const HfConfig& config, nlohmann::json& keys) {
  const Experts& experts = config.arch.experts;
  write_window(config, keys);
  keys["use_sliding_window"] = window_of(config) > 0;
  keys["attention_bias"] = config.arch.qkv_bias;
  keys["num_experts"] = experts.count;
  keys["num_experts_per_tok"] = experts.used;
  keys["moe_intermediate_size"] = experts.intermediate_size;
  keys["norm_topk_prob"] = experts.sums_to_one;
  keys["decoder_sparse_step"] = 1;
  nlohmann::json dense = nlohmann::json::array();
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (!config.block(i).has_experts) dense.push_back(i);
  }
  keys["mlp_only_layers"] = dense;
}

}  // namespace

const Family kQwen3Family = {"Qwen3ForCausalLM", "qwen3", defaults, read, write};
const Family kQwen3MoeFamily = {"Qwen3MoeForCausalLM", "qwen3_moe", moe_defaults, moe_read,
                                moe_write};

}  // namespace qlora::io
