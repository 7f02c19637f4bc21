#include "io/llama_layout.h"

#include <fmt/format.h>

namespace qlora::io {
namespace {

struct Linear {
  const char* name;
  const char* gguf_name;
  int64_t rows, columns;
  bool bias;
  bool rope_permuted;
};

void add_block(const HfConfig& c, int64_t block, std::vector<ExpectedTensor>& tensors) {
  const int64_t q_rows = c.num_attention_heads * c.head_dim,
                kv_rows = c.num_key_value_heads * c.head_dim;
  const Linear linears[] = {
      {"self_attn.q_proj", "attn_q", q_rows, c.hidden_size, c.attention_bias, true},
      {"self_attn.k_proj", "attn_k", kv_rows, c.hidden_size, c.attention_bias, true},
      {"self_attn.v_proj", "attn_v", kv_rows, c.hidden_size, c.attention_bias, false},
      {"self_attn.o_proj", "attn_output", c.hidden_size, q_rows, c.attention_bias, false},
      {"mlp.gate_proj", "ffn_gate", c.intermediate_size, c.hidden_size, c.mlp_bias, false},
      {"mlp.up_proj", "ffn_up", c.intermediate_size, c.hidden_size, c.mlp_bias, false},
      {"mlp.down_proj", "ffn_down", c.hidden_size, c.intermediate_size, c.mlp_bias, false}};
  const std::string hf = fmt::format("model.layers.{}.", block),
                    gguf = fmt::format("blk.{}.", block);
  tensors.push_back({hf + "input_layernorm.weight", {c.hidden_size}, gguf + "attn_norm.weight"});
  for (const Linear& l : linears) {
    const std::string name = hf + l.name, gguf_name = gguf + l.gguf_name;
    tensors.push_back(
        {name + ".weight", {l.rows, l.columns}, gguf_name + ".weight", l.rope_permuted});
    if (l.bias) tensors.push_back({name + ".bias", {l.rows}, gguf_name + ".bias", l.rope_permuted});
  }
  tensors.push_back(
      {hf + "post_attention_layernorm.weight", {c.hidden_size}, gguf + "ffn_norm.weight"});
}

}  // namespace

std::vector<ExpectedTensor> llama_tensors(const HfConfig& config) {
  std::vector<ExpectedTensor> tensors;
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  tensors.push_back({"model.embed_tokens.weight", table, "token_embd.weight"});
  for (int64_t block = 0; block < config.num_hidden_layers; ++block)
    add_block(config, block, tensors);
  tensors.push_back({"model.norm.weight", {config.hidden_size}, "output_norm.weight"});
  if (!config.tie_word_embeddings) tensors.push_back({"lm_head.weight", table, "output.weight"});
  return tensors;
}

}  // namespace qlora::io
