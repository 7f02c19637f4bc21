#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config = kMistralFamily.defaults();
  config.rms_norm_eps = 1e-5;
  config.rope.theta = 1e6;
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  refuse_switched_on(keys, "router_jitter_noise");
  const auto blocks = static_cast<size_t>(config.num_hidden_layers);
  config.arch.blocks = window_blocks(std::vector<bool>(blocks, true), read_window(keys, 0));
  for (BlockKind& block : config.arch.blocks) block.has_experts = true;
  config.arch.experts = {.count = keys.integer("num_local_experts").value_or(8),
                         .used = keys.integer("num_experts_per_tok").value_or(2),
                         .intermediate_size = config.intermediate_size,
                         .sums_to_one = true,
                         .names = Experts::Names::kMixtral};
}

void write(const HfConfig& config, nlohmann::json& keys) {
  write_window(config, keys);
  keys["num_local_experts"] = config.arch.experts.count;
  keys["num_experts_per_tok"] = config.arch.experts.used;
}

}  // namespace

const Family kMixtralFamily = {"MixtralForCausalLM", "mixtral", defaults, read, write};

}  // namespace qlora::io
