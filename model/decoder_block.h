#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "lora/lora_linear.h"
#include "model/kv_rounding.h"
#include "model/rope.h"

namespace qlora::model {

/// Sizes that every block of a decoder shares.
struct BlockShape {
  int64_t heads = 0;     // H
  int64_t kv_heads = 0;  // H divides by it
  int64_t head_dim = 0;  // D
  double norm_epsilon = 1e-5;
};

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
  RopeAngles rope;                      // cos, sin [T, D/2] f32
  torch::ScalarType compute_dtype = torch::kFloat32;
  lora::DropoutKey dropout;
  KvRounding kv_rounding = KvRounding::kNone;
};

/// Pre-norm transformer block: h += o(attention(norm(h))); h += down(silu(gate) · up).
class DecoderBlock {
 public:
  using Tensor = torch::Tensor;

  BlockShape shape;
  torch::Tensor input_norm;      // [C] f32
  torch::Tensor attention_norm;  // [C] f32, before the MLP ("post_attention_layernorm")
  lora::LoraLinear q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj;

  /// h [T, C] f32 -> [T, C] f32.
  torch::Tensor forward(const torch::Tensor& h, const PassLayout& layout) const;
  /// The same, keeping h alone for the backward.
  torch::Tensor forward_checkpointed(const torch::Tensor& h, const PassLayout& layout) const;
  /// One sequence, new tokens behind those in the cache; no graph.
  torch::Tensor forward_cached(const torch::Tensor& h, const PassLayout& layout,
                               KvCache::Layer& cache, int64_t cached_tokens) const;

  /// The seven linears in PEFT's order of names.
  std::vector<lora::LoraLinear*> linears();
  std::vector<const lora::LoraLinear*> linears() const;

  /// The parts of forward(), in order: what lies between them is what the linears read, which
  /// calibration looks at.
  Tensor attention_input(const Tensor& h, const PassLayout& layout) const;  // q, k, v [T, C]
  Tensor attention_mix(const Tensor& x, const PassLayout& layout) const;    // o [T, H·D]
  Tensor add_attention(const Tensor& h, const Tensor& mixed, const PassLayout& layout) const;
  Tensor mlp_input(const Tensor& h, const PassLayout& layout) const;  // gate, up [T, C]
  Tensor mlp_mix(const Tensor& x, const PassLayout& layout) const;    // down [T, F]
  Tensor add_mlp(const Tensor& h, const Tensor& mixed, const PassLayout& layout) const;

 private:
  Tensor rotated(const lora::LoraLinear& projection, const Tensor& x,
                 const PassLayout& layout) const;
  Tensor mlp(const Tensor& h, const PassLayout& layout) const;
};

}  // namespace qlora::model
