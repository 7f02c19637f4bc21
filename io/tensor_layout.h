#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/hf_config.h"

namespace qlora::io {

enum class TensorRole { kEmbedding, kNorm, kLinear, kBias, kRouter, kHead };

/// A tensor that a checkpoint of this config must hold, under its two names.
struct ExpectedTensor {
  std::string name;            // Hugging Face: "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;  // [N, K] or [N]
  std::string gguf_name;       // llama.cpp: "blk.0.attn_q.weight"; empty: it has no such tensor
  bool rope_permuted = false;  // q and k: in GGUF files the rows stand in llama.cpp's order
  TensorRole role = TensorRole::kLinear;
};

/// What a linear of a block computes.
enum class LinearSlot { kQuery, kKey, kValue, kQkv, kOutput, kGate, kUp, kGateUp, kDown };

/// One linear of a block.
struct BlockLinear {
  LinearSlot slot;
  int64_t expert;         // -1: of the block's only MLP, or of its attention
  std::string name;       // "model.layers.0.self_attn.q_proj"
  std::string gguf_name;  // "blk.0.attn_q"; empty: llama.cpp stores it with others
  int64_t rows, columns;  // N, K
  bool has_bias;
};

/// Linears of block `index`: q, k, v, o, gate, up, down, or what stands in their place (fused ones,
/// the experts one after another).
std::vector<BlockLinear> block_linears(const HfConfig& config, int64_t index);

/// The norms of a block by what they norm; names without ".weight", empty where there is none.
struct BlockNorms {
  std::string input;          // before attention
  std::string attention_out;  // its result, before it is added
  std::string mlp_input;      // before the MLP
  std::string mlp_out;        // its result
  std::string query, key;     // head by head
};
BlockNorms block_norms(const HfConfig& config, int64_t index);

/// Name without ".weight" of the matrix [E, C] that chooses the experts of a block.
std::string router_name(const HfConfig& config, int64_t index);

/// All tensors of a checkpoint: embedding, block by block, norm, lm_head last.
/// lm_head.weight is not among them where the embeddings are tied.
///   Requires  a config that validate() accepts
std::vector<ExpectedTensor> model_tensors(const HfConfig& config);

/// True for families whose GGUF files hold the rows of q and k in pairs that turn together.
bool permutes_rope_rows(const HfConfig& config);

}  // namespace qlora::io
