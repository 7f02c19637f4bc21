#include "core/error.h"
#include "io/family.h"

namespace qlora::io {
namespace {

HfConfig defaults() {
  HfConfig config;
  config.vocab_size = 32064;
  config.hidden_size = 3072;
  config.intermediate_size = 8192;
  config.num_hidden_layers = 32;
  config.num_attention_heads = 32;
  config.max_position_embeddings = 4096;
  config.rms_norm_eps = 1e-5;
  config.bos_token_id = 1;
  config.eos_token_ids = {32000};
  config.pad_token_id = 32000;
  config.rope.original_max_position_embeddings = 4096;
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  for (const char* dropout : {"embd_pdrop", "resid_pdrop"}) refuse_switched_on(keys, dropout);
  const bool is_known =
      config.rope.type == RopeType::kDefault || config.rope.type == RopeType::kLongrope;
  QLORA_CHECK(is_known, FormatError,
              "[io] {}: Phi-3 is computed with the rope types default and longrope", keys.where());
  config.arch.has_fused_projections = true;
  const auto blocks = static_cast<size_t>(config.num_hidden_layers);
  config.arch.blocks = window_blocks(std::vector<bool>(blocks, true), read_window(keys, 0));
}

void write(const HfConfig& config, nlohmann::json& keys) {
  write_window(config, keys);
  keys["embd_pdrop"] = keys["resid_pdrop"] = 0.0;
  keys["original_max_position_embeddings"] = config.rope.original_max_position_embeddings;
  keys["partial_rotary_factor"] = config.rope.partial_rotary_factor;
}

}  // namespace

/// Phi-3, Phi-3.5 and Phi-4 in their text-only sizes.
const Family kPhi3Family = {.architecture = "Phi3ForCausalLM",
                            .model_type = "phi3",
                            .defaults = defaults,
                            .read = read,
                            .write = write,
                            .has_partial_rotary = true};

}  // namespace qlora::io
