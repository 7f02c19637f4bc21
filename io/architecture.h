#pragma once

#include <cstdint>
#include <vector>

namespace qlora::io {

/// What the MLP does to its gate.
enum class Activation {
  kSilu,      // x · sigmoid(x)
  kGeluTanh,  // 0.5·x·(1 + tanh(sqrt(2/pi)·(x + 0.044715·x³)))
};

/// Which rotary parameters a block's queries and keys are turned by.
enum class RopeUse {
  kGlobal,  // HfConfig::rope
  kLocal,   // HfConfig::local_rope
  kNone,    // not turned at all (NoPE)
};

/// What one block has of its own.
struct BlockKind {
  int64_t sliding_window = 0;  // keys that a query sees, its own among them; 0: all up to its own
  RopeUse rope = RopeUse::kGlobal;
  bool has_experts = false;  // a mixture of experts in place of one MLP

  bool operator==(const BlockKind&) const = default;
};

/// A mixture of experts: a router sends each token to the `used` of `count` MLPs that it likes
/// most.
struct Experts {
  enum class Names { kQwen, kMixtral };  // mlp.experts.0.gate_proj, block_sparse_moe.experts.0.w1

  int64_t count = 0;              // E; 0: the model has none
  int64_t used = 0;               // of them, for each token
  int64_t intermediate_size = 0;  // F of one expert
  bool sums_to_one = true;        // the weights of the used experts are divided by their sum
  Names names = Names::kQwen;
};

/// What tells the families of models apart beside their sizes: one decoder computes them all.
struct Architecture {
  Activation activation = Activation::kSilu;
  double norm_offset = 0;           // a norm multiplies by offset + weight (Gemma: 1)
  bool has_post_norms = false;      // attention and MLP are normed again before they are added
  bool has_query_key_norm = false;  // queries and keys are normed, head by head, before they turn
  bool qkv_bias = false;
  bool output_bias = false;  // of o_proj
  bool mlp_bias = false;
  bool has_fused_projections = false;  // qkv_proj and gate_up_proj, stored as one matrix each
  double query_scale = 0;              // of the attention scores; 0: 1 / sqrt(head_dim)
  double attention_softcap = 0;        // scores become cap·tanh(score / cap); 0: they stay
  double logit_softcap = 0;            // the same for the final logits
  double embedding_scale = 1;          // of the embeddings of tokens
  Experts experts;
  std::vector<BlockKind> blocks;  // one a block; empty: all are alike, as BlockKind's defaults
};

}  // namespace qlora::io
