#include "io/gguf_key_names.h"

#include <cctype>

#include "core/error.h"

namespace qlora::io {
namespace {

/// `gguf` follows "FAMILY." where it begins with a dot.
struct KeyName {
  std::string_view config;
  std::string_view gguf;
};
constexpr KeyName kKeys[] = {
    {"vocab_size", ".vocab_size"},
    {"hidden_size", ".embedding_length"},
    {"intermediate_size", ".feed_forward_length"},
    {"num_hidden_layers", ".block_count"},
    {"num_attention_heads", ".attention.head_count"},
    {"num_key_value_heads", ".attention.head_count_kv"},
    {"head_dim", ".attention.key_length"},
    {"max_position_embeddings", ".context_length"},
    {"rms_norm_eps", ".attention.layer_norm_rms_epsilon"},
    {"sliding_window", ".attention.sliding_window"},
    {"attn_logit_softcapping", ".attn_logit_softcapping"},
    {"final_logit_softcapping", ".final_logit_softcapping"},
    {"rope theta", ".rope.freq_base"},
    {"rope factor", ".rope.scaling.factor"},
    {"rope original_max_position_embeddings", ".rope.scaling.original_context_length"},
    {"original_max_position_embeddings", ".rope.scaling.original_context_length"},
    {"rope beta_fast", ".rope.scaling.yarn_beta_fast"},
    {"beta_fast", ".rope.scaling.yarn_beta_fast"},
    {"rope beta_slow", ".rope.scaling.yarn_beta_slow"},
    {"beta_slow", ".rope.scaling.yarn_beta_slow"},
    {"rope attention_factor", ".rope.scaling.attn_factor"},
    {"rope partial_rotary_factor", ".rope.dimension_count / head width"},
    {"partial_rotary_factor", ".rope.dimension_count / head width"},
    {"rope short_factor or long_factor", "rope_factors_short.weight or rope_factors_long.weight"},
    {"bos_token_id", "tokenizer.ggml.bos_token_id"},
    {"eos_token_id", "tokenizer.ggml.eos_token_id"},
    {"pad_token_id", "tokenizer.ggml.padding_token_id"},
};

bool is_of_a_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.';
}

/// The row whose name stands at the beginning of `text` as a whole word.
const KeyName* key_at(std::string_view text) {
  for (const KeyName& key : kKeys) {
    if (!text.starts_with(key.config)) continue;
    if (text.size() == key.config.size() || !is_of_a_name(text[key.config.size()])) return &key;
  }
  return nullptr;
}

}  // namespace

std::string in_gguf_keys(std::string_view message, const GgufReader& gguf,
                         std::string_view family) {
  const auto full_name = [&](const KeyName& key) {
    std::string name =
        key.gguf.starts_with('.') ? fmt::format("{}{}", family, key.gguf) : std::string(key.gguf);
    if (key.config != "head_dim" || gguf.find(name) != nullptr) return name;
    return fmt::format("{0}.embedding_length / {0}.attention.head_count", family);
  };
  const std::string front = fmt::format("[io] {}: ", gguf.path().string());
  size_t at = message.starts_with(front) ? front.size() : 0;
  std::string text(message.substr(0, at));
  while (at < message.size()) {
    const bool begins_word = at == 0 || !is_of_a_name(message[at - 1]);
    const KeyName* key = begins_word ? key_at(message.substr(at)) : nullptr;
    if (key == nullptr) {
      text += message[at++];
      continue;
    }
    text += full_name(*key);
    at += key->config.size();
  }
  return text;
}

}  // namespace qlora::io
