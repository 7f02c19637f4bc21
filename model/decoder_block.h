#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/tensor_layout.h"
#include "lora/lora_linear.h"
#include "model/activation_offload.h"
#include "model/attention.h"
#include "model/experts.h"
#include "model/kv_rounding.h"
#include "model/rope.h"

namespace qlora::model {

/// What a block is beside its weights.
struct BlockShape {
  int64_t heads = 0;     // H
  int64_t kv_heads = 0;  // H divides by it
  AttentionOptions attention;
  io::RopeUse rope = io::RopeUse::kGlobal;
  double norm_epsilon = 1e-5;
  double norm_offset = 0;  // already in the norms: what a file holds is that much less
  io::Activation activation = io::Activation::kSilu;
  bool has_fused_projections = false;  // qkv_proj and gate_up_proj
  int64_t experts_used = 0;            // 0: one MLP
  bool expert_weights_sum_to_one = true;
};

BlockShape block_shape(const io::HfConfig& config, int64_t index);

/// Keys and values of one sequence for generation, grown in place.
struct KvCache {
  struct Layer {
    torch::Tensor keys;    // [kv heads, capacity, D]
    torch::Tensor values;  // [kv heads, capacity, D]
  };
  std::vector<Layer> layers;
  int64_t length = 0;    // tokens held
  int64_t capacity = 0;  // tokens there is room for
};

/// What the tokens of a pass share: where segments lie and how positions rotate.
struct PassLayout {
  std::vector<int32_t> segment_starts;  // [S + 1]
  BlockAngles rope;
  torch::ScalarType compute_dtype = torch::kFloat32;
  lora::DropoutKey dropout;
  KvRounding kv_rounding = KvRounding::kNone;
  std::shared_ptr<ActivationOffload> offload;  // of checkpointed blocks' inputs; null: they stay
};

/// Pre-norm transformer block: h += o(attention(norm(h))); h += down(act(gate) · up). Some norm
/// what attention and MLP give once more before it is added, some norm queries and keys, some have
/// experts for the MLP: `shape` and what is defined below say which.
class DecoderBlock {
 public:
  using Tensor = torch::Tensor;

  BlockShape shape;
  torch::Tensor input_norm;            // [C] f32
  torch::Tensor attention_out_norm;    // [C] f32 of the attention's result, or undefined
  torch::Tensor attention_norm;        // [C] f32, before the MLP
  torch::Tensor mlp_out_norm;          // [C] f32 of the MLP's result, or undefined
  torch::Tensor query_norm, key_norm;  // [D] f32, or undefined
  lora::LoraLinear q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;
  lora::LoraLinear qkv_proj, gate_up_proj;  // in place of their parts
  torch::Tensor router;                     // [E, C] f32
  std::vector<ExpertMlp> experts;           // in place of gate, up, down

  /// h [T, C] f32 -> [T, C] f32.
  torch::Tensor forward(const torch::Tensor& h, const PassLayout& layout) const;
  /// The same, keeping h alone for the backward.
  torch::Tensor forward_checkpointed(const torch::Tensor& h, const PassLayout& layout) const;
  /// One sequence, new tokens behind those in the cache; no graph.
  torch::Tensor forward_cached(const torch::Tensor& h, const PassLayout& layout,
                               KvCache::Layer& cache, int64_t cached_tokens) const;

  /// The linears that the block has, in the order of io::block_linears.
  std::vector<lora::LoraLinear*> linears();
  std::vector<const lora::LoraLinear*> linears() const;
  lora::LoraLinear& linear(io::LinearSlot slot, int64_t expert);
  /// The norms that the block has.
  std::vector<const torch::Tensor*> norms() const;

  /// The parts of forward(), in order: what lies between them is what the linears read, which
  /// calibration looks at.
  Tensor attention_input(const Tensor& h, const PassLayout& layout) const;  // q, k, v [T, C]
  Tensor attention_mix(const Tensor& x, const PassLayout& layout) const;    // o [T, H·D]
  Tensor add_attention(const Tensor& h, const Tensor& mixed, const PassLayout& layout) const;
  Tensor mlp_input(const Tensor& h, const PassLayout& layout) const;  // gate, up [T, C]
  Tensor mlp_mix(const Tensor& x, const PassLayout& layout) const;    // down [T, F]; no experts
  Tensor add_mlp(const Tensor& h, const Tensor& mixed, const PassLayout& layout) const;

 private:
  struct Heads {
    Tensor q, k, v;  // [T, H·D], [T, kv·D] twice, normed and turned
  };
  Heads heads_of(const Tensor& x, const PassLayout& layout) const;
  Tensor normed_and_turned(const Tensor& x, const Tensor& norm, const PassLayout& layout) const;
  Tensor mlp(const Tensor& h, const PassLayout& layout) const;
};

}  // namespace qlora::model
