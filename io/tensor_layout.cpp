#include "io/tensor_layout.h"

#include <fmt/format.h>

namespace qlora::io {
namespace {

std::string hf_prefix(int64_t block) {
  return fmt::format("model.layers.{}.", block);
}

std::string gguf_prefix(int64_t block) {
  return fmt::format("blk.{}.", block);
}

struct LinearNames {
  LinearSlot slot;
  const char* name;
  const char* gguf_name;
};
constexpr LinearNames kAttention[] = {{LinearSlot::kQuery, "self_attn.q_proj", "attn_q"},
                                      {LinearSlot::kKey, "self_attn.k_proj", "attn_k"},
                                      {LinearSlot::kValue, "self_attn.v_proj", "attn_v"},
                                      {LinearSlot::kOutput, "self_attn.o_proj", "attn_output"}};
constexpr LinearNames kFusedAttention[] = {
    {LinearSlot::kQkv, "self_attn.qkv_proj", "attn_qkv"},
    {LinearSlot::kOutput, "self_attn.o_proj", "attn_output"}};
constexpr LinearNames kMlp[] = {{LinearSlot::kGate, "mlp.gate_proj", "ffn_gate"},
                                {LinearSlot::kUp, "mlp.up_proj", "ffn_up"},
                                {LinearSlot::kDown, "mlp.down_proj", "ffn_down"}};
// llama.cpp has one name for both: a fused matrix stands under that of `up`.
constexpr LinearNames kFusedMlp[] = {{LinearSlot::kGateUp, "mlp.gate_up_proj", "ffn_up"},
                                     {LinearSlot::kDown, "mlp.down_proj", "ffn_down"}};
constexpr LinearNames kQwenExpert[] = {{LinearSlot::kGate, "gate_proj", ""},
                                       {LinearSlot::kUp, "up_proj", ""},
                                       {LinearSlot::kDown, "down_proj", ""}};
constexpr LinearNames kMixtralExpert[] = {
    {LinearSlot::kGate, "w1", ""}, {LinearSlot::kUp, "w3", ""}, {LinearSlot::kDown, "w2", ""}};

/// Sizes and bias of a slot; `width` is F.
BlockLinear linear_of(const HfConfig& c, LinearSlot slot, int64_t width) {
  const int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
  const Architecture& a = c.arch;
  const auto make = [&](int64_t rows, int64_t columns, bool bias) {
    return BlockLinear{slot, -1, "", "", rows, columns, bias};
  };
  switch (slot) {
    case LinearSlot::kQuery:
      return make(q, c.hidden_size, a.qkv_bias);
    case LinearSlot::kKey:
    case LinearSlot::kValue:
      return make(kv, c.hidden_size, a.qkv_bias);
    case LinearSlot::kQkv:
      return make(q + 2 * kv, c.hidden_size, a.qkv_bias);
    case LinearSlot::kOutput:
      return make(c.hidden_size, q, a.output_bias);
    case LinearSlot::kGate:
    case LinearSlot::kUp:
      return make(width, c.hidden_size, a.mlp_bias);
    case LinearSlot::kGateUp:
      return make(2 * width, c.hidden_size, a.mlp_bias);
    case LinearSlot::kDown:
      break;
  }
  return make(c.hidden_size, width, a.mlp_bias);
}

template <size_t N>
void add_linears(const HfConfig& c, int64_t block, const LinearNames (&names)[N],
                 std::vector<BlockLinear>& linears) {
  for (const LinearNames& l : names) {
    BlockLinear linear = linear_of(c, l.slot, c.intermediate_size);
    linear.name = hf_prefix(block) + l.name;
    linear.gguf_name = gguf_prefix(block) + l.gguf_name;
    linears.push_back(std::move(linear));
  }
}

std::string moe_prefix(const HfConfig& c, int64_t block) {
  const bool is_mixtral = c.arch.experts.names == Experts::Names::kMixtral;
  return hf_prefix(block) + (is_mixtral ? "block_sparse_moe." : "mlp.");
}

void add_experts(const HfConfig& c, int64_t block, std::vector<BlockLinear>& linears) {
  const Experts& experts = c.arch.experts;
  const auto& names = experts.names == Experts::Names::kMixtral ? kMixtralExpert : kQwenExpert;
  for (int64_t e = 0; e < experts.count; ++e) {
    for (const LinearNames& l : names) {
      BlockLinear linear = linear_of(c, l.slot, experts.intermediate_size);
      linear.expert = e;
      linear.name = fmt::format("{}experts.{}.{}", moe_prefix(c, block), e, l.name);
      linears.push_back(std::move(linear));
    }
  }
}

void add_norm(const HfConfig& c, const std::string& name, const std::string& gguf_name,
              std::vector<ExpectedTensor>& tensors, int64_t width = 0) {
  if (name.empty()) return;
  tensors.push_back({name + ".weight",
                     {width > 0 ? width : c.hidden_size},
                     gguf_name + ".weight",
                     false,
                     TensorRole::kNorm});
}

void add_block(const HfConfig& c, int64_t block, std::vector<ExpectedTensor>& tensors) {
  const std::string gguf = gguf_prefix(block);
  const BlockNorms norms = block_norms(c, block);
  add_norm(c, norms.input, gguf + "attn_norm", tensors);
  add_norm(c, norms.query, gguf + "attn_q_norm", tensors, c.head_dim);
  add_norm(c, norms.key, gguf + "attn_k_norm", tensors, c.head_dim);
  for (const BlockLinear& l : block_linears(c, block)) {
    const bool turns = l.slot == LinearSlot::kQuery || l.slot == LinearSlot::kKey;
    const bool permuted = turns && permutes_rope_rows(c);
    const std::string gguf_name = l.gguf_name.empty() ? "" : l.gguf_name + ".";
    const auto stored = [&](const char* part) { return gguf_name.empty() ? "" : gguf_name + part; };
    tensors.push_back({l.name + ".weight", {l.rows, l.columns}, stored("weight"), permuted});
    if (!l.has_bias) continue;
    tensors.push_back({l.name + ".bias", {l.rows}, stored("bias"), permuted, TensorRole::kBias});
  }
  if (c.block(block).has_experts) {
    tensors.push_back({router_name(c, block) + ".weight",
                       {c.arch.experts.count, c.hidden_size},
                       gguf + "ffn_gate_inp.weight",
                       false,
                       TensorRole::kRouter});
  }
  add_norm(c, norms.attention_out, gguf + "post_attention_norm", tensors);
  add_norm(c, norms.mlp_input, gguf + "ffn_norm", tensors);
  add_norm(c, norms.mlp_out, gguf + "post_ffw_norm", tensors);
}

}  // namespace

std::vector<BlockLinear> block_linears(const HfConfig& config, int64_t index) {
  std::vector<BlockLinear> linears;
  const bool fused = config.arch.has_fused_projections;
  if (fused) {
    add_linears(config, index, kFusedAttention, linears);
  } else {
    add_linears(config, index, kAttention, linears);
  }
  if (config.block(index).has_experts) {
    add_experts(config, index, linears);
  } else if (fused) {
    add_linears(config, index, kFusedMlp, linears);
  } else {
    add_linears(config, index, kMlp, linears);
  }
  return linears;
}

BlockNorms block_norms(const HfConfig& config, int64_t index) {
  const std::string prefix = hf_prefix(index);
  BlockNorms norms{.input = prefix + "input_layernorm",
                   .attention_out = "",
                   .mlp_input = prefix + "post_attention_layernorm",
                   .mlp_out = "",
                   .query = "",
                   .key = ""};
  if (config.arch.has_post_norms) {  // one name, two meanings: here it is what the name says
    norms.attention_out = prefix + "post_attention_layernorm";
    norms.mlp_input = prefix + "pre_feedforward_layernorm";
    norms.mlp_out = prefix + "post_feedforward_layernorm";
  }
  if (config.arch.has_query_key_norm) {
    norms.query = prefix + "self_attn.q_norm";
    norms.key = prefix + "self_attn.k_norm";
  }
  return norms;
}

std::string router_name(const HfConfig& config, int64_t index) {
  return moe_prefix(config, index) + "gate";
}

bool permutes_rope_rows(const HfConfig& config) {
  return config.model_type == "llama" || config.model_type == "mistral" ||
         config.model_type == "smollm3" || config.model_type == "mixtral";
}

std::vector<ExpectedTensor> model_tensors(const HfConfig& config) {
  std::vector<ExpectedTensor> tensors;
  const std::vector<int64_t> table = {config.vocab_size, config.hidden_size};
  tensors.push_back(
      {"model.embed_tokens.weight", table, "token_embd.weight", false, TensorRole::kEmbedding});
  for (int64_t block = 0; block < config.num_hidden_layers; ++block)
    add_block(config, block, tensors);
  add_norm(config, "model.norm", "output_norm", tensors);
  if (!config.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", table, "output.weight", false, TensorRole::kHead});
  }
  return tensors;
}

}  // namespace qlora::io
