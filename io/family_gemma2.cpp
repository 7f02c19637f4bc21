#include <cmath>

#include "core/error.h"
#include "io/family.h"
#include "io/family_gemma.h"

namespace qlora::io {

double read_softcap(const JsonObject& keys, const char* key, double if_absent) {
  if (!keys.stands(key)) return if_absent;
  const auto cap = keys.number(key);
  QLORA_CHECK(!cap || (*cap > 0 && *cap <= 1e6), FormatError,
              "[io] {}: {} is {}, above 0 up to 1e6 is allowed, or null", keys.where(), key, *cap);
  return cap.value_or(0);
}

void read_gemma(const JsonObject& keys, HfConfig& config, double attention_cap, double logit_cap) {
  read_attention_bias(keys, config);
  refuse_switched_on(keys, "use_bidirectional_attention");
  Architecture& arch = config.arch;
  arch.norm_offset = 1;
  arch.has_post_norms = true;
  arch.embedding_scale = std::sqrt(static_cast<double>(config.hidden_size));
  const double scalar = keys.number("query_pre_attn_scalar").value_or(256);
  QLORA_CHECK(scalar > 0 && scalar <= 1e6, FormatError,
              "[io] {}: query_pre_attn_scalar is {}, above 0 up to 1e6 is allowed", keys.where(),
              scalar);
  arch.query_scale = 1 / std::sqrt(scalar);
  arch.attention_softcap = read_softcap(keys, "attn_logit_softcapping", attention_cap);
  arch.logit_softcap = read_softcap(keys, "final_logit_softcapping", logit_cap);
}

void write_gemma(const HfConfig& config, nlohmann::json& keys) {
  const auto cap = [](double value) {
    return value > 0 ? nlohmann::json(value) : nlohmann::json();
  };
  const double scalar = 1 / (config.query_scale() * config.query_scale());
  keys["hidden_activation"] = keys["hidden_act"];
  keys["attention_bias"] = config.arch.qkv_bias;
  keys["query_pre_attn_scalar"] = std::llround(scalar);
  keys["attn_logit_softcapping"] = cap(config.arch.attention_softcap);
  keys["final_logit_softcapping"] = cap(config.arch.logit_softcap);
  write_layer_types(config, keys);
}

HfConfig gemma_defaults() {
  HfConfig config;
  config.hidden_size = 2304;
  config.intermediate_size = 9216;
  config.num_hidden_layers = 26;
  config.num_attention_heads = 8;
  config.num_key_value_heads = 4;
  config.head_dim = 256;
  config.bos_token_id = 2;
  config.eos_token_ids = {1};
  config.pad_token_id = 0;
  config.tie_word_embeddings = true;
  config.arch.activation = Activation::kGeluTanh;
  return config;
}

namespace {

HfConfig defaults() {
  HfConfig config = gemma_defaults();
  config.vocab_size = 256000;
  config.max_position_embeddings = 8192;
  return config;
}

void read(const JsonObject& keys, HfConfig& config) {
  read_gemma(keys, config, 50, 30);
  const auto every_other = [](int64_t index, int64_t) { return index % 2 == 0; };
  config.arch.blocks = window_blocks(
      read_layer_types(keys, config.num_hidden_layers, every_other, 0), read_window(keys, 4096));
}

}  // namespace

const Family kGemma2Family = {"Gemma2ForCausalLM", "gemma2", defaults, read, write_gemma};

}  // namespace qlora::io
