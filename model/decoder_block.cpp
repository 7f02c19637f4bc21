#include "model/decoder_block.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/split_with_sizes.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include "model/attention.h"
#include "model/rms_norm.h"
#include "model/swiglu.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What a recomputed forward needs. The block outlives every graph through it.
struct BlockPass : torch::CustomClassHolder {
  const DecoderBlock* block = nullptr;
  PassLayout layout;
  size_t place = 0;  // of the offloaded input
};

/// Keeps the block's input alone and runs the block again when its gradient arrives.
///   Source    Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174
struct CheckpointedBlockFunction : torch::autograd::Function<CheckpointedBlockFunction> {
  /// `anchor` is any trainable tensor of the block: it makes the result ask for a gradient where
  /// h, the embedding's output, does not.
  static Tensor forward(AutogradContext* ctx, const Tensor& h, const Tensor& anchor,
                        const c10::intrusive_ptr<BlockPass>& pass) {
    (void)anchor;
    if (pass->layout.offload == nullptr) {
      ctx->save_for_backward({h});
    } else {
      pass->place = pass->layout.offload->put(h);
    }
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    return pass->block->forward(h, pass->layout);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto pass =
        c10::static_intrusive_pointer_cast<BlockPass>(ctx->saved_data["pass"].toCapsule());
    const at::AutoGradMode recording(true);
    const Tensor input = pass->layout.offload == nullptr ? ctx->get_saved_variables()[0]
                                                         : pass->layout.offload->get(pass->place);
    Tensor h = input.detach().requires_grad_(ctx->needs_input_grad(0));
    const Tensor out = pass->block->forward(h, pass->layout);
    torch::autograd::backward({out}, {gradients[0]});  // adds to the adapters' gradients
    return {h.grad(), Tensor(), Tensor()};
  }
};

}  // namespace

BlockShape block_shape(const io::HfConfig& config, int64_t index) {
  const io::Architecture& arch = config.arch;
  const io::BlockKind& kind = config.block(index);
  return {.heads = config.num_attention_heads,
          .kv_heads = config.num_key_value_heads,
          .attention = {.head_dim = config.head_dim,
                        .scale = config.query_scale(),
                        .window = kind.sliding_window,
                        .softcap = arch.attention_softcap},
          .rope = kind.rope,
          .norm_epsilon = config.rms_norm_eps,
          .norm_offset = arch.norm_offset,
          .activation = arch.activation,
          .has_fused_projections = arch.has_fused_projections,
          .experts_used = kind.has_experts ? arch.experts.used : 0,
          .expert_weights_sum_to_one = arch.experts.sums_to_one};
}

/// Queries or keys as a projection gives them: in FP32 where a norm follows.
Tensor DecoderBlock::normed_and_turned(const Tensor& x, const Tensor& norm,
                                       const PassLayout& layout) const {
  const int64_t d = shape.attention.head_dim;
  Tensor heads = x;
  if (norm.defined()) {
    heads = rms_norm(x.to(torch::kFloat32).reshape({-1, d}), norm, shape.norm_epsilon,
                     layout.compute_dtype)
                .view(x.sizes());
  }
  if (shape.rope == io::RopeUse::kNone) return heads;
  const bool is_local = shape.rope == io::RopeUse::kLocal;
  return apply_rope(heads, is_local ? layout.rope.local : layout.rope.global, d);
}

DecoderBlock::Heads DecoderBlock::heads_of(const Tensor& x, const PassLayout& layout) const {
  const auto project = [&](const lora::LoraLinear& linear, const Tensor& norm) {
    const auto dtype = norm.defined() ? torch::kFloat32 : layout.compute_dtype;
    return normed_and_turned(linear.forward(x, dtype, layout.dropout), norm, layout);
  };
  if (!shape.has_fused_projections) {
    const Tensor q = project(q_proj, query_norm), k = project(k_proj, key_norm);
    return {q, k, v_proj.forward(x, layout.compute_dtype, layout.dropout)};
  }
  const int64_t d = shape.attention.head_dim;
  const auto parts =
      at::split_with_sizes(qkv_proj.forward(x, layout.compute_dtype, layout.dropout),
                           {shape.heads * d, shape.kv_heads * d, shape.kv_heads * d}, 1);
  return {normed_and_turned(parts[0], query_norm, layout),
          normed_and_turned(parts[1], key_norm, layout), parts[2]};
}

Tensor DecoderBlock::attention_input(const Tensor& h, const PassLayout& layout) const {
  return rms_norm(h, input_norm, shape.norm_epsilon, layout.compute_dtype);
}

Tensor DecoderBlock::attention_mix(const Tensor& x, const PassLayout& layout) const {
  Heads heads = heads_of(x, layout);
  round_kv(heads.k, heads.v, layout.segment_starts, shape.attention.head_dim, layout.kv_rounding);
  return attention(heads.q, heads.k, heads.v, layout.segment_starts, shape.attention);
}

Tensor DecoderBlock::add_attention(const Tensor& h, const Tensor& mixed,
                                   const PassLayout& layout) const {
  const Tensor out = o_proj.forward(mixed, torch::kFloat32, layout.dropout);
  if (!attention_out_norm.defined()) return h + out;
  return h + rms_norm(out, attention_out_norm, shape.norm_epsilon, torch::kFloat32);
}

Tensor DecoderBlock::mlp_input(const Tensor& h, const PassLayout& layout) const {
  return rms_norm(h, attention_norm, shape.norm_epsilon, layout.compute_dtype);
}

Tensor DecoderBlock::mlp_mix(const Tensor& x, const PassLayout& layout) const {
  if (shape.has_fused_projections) {
    const auto halves = gate_up_proj.forward(x, layout.compute_dtype, layout.dropout).chunk(2, 1);
    return swiglu(halves[0], halves[1], shape.activation);
  }
  const Tensor gate = gate_proj.forward(x, layout.compute_dtype, layout.dropout);  // [T, F]
  const Tensor up = up_proj.forward(x, layout.compute_dtype, layout.dropout);      // [T, F]
  return swiglu(gate, up, shape.activation);
}

Tensor DecoderBlock::add_mlp(const Tensor& h, const Tensor& mixed, const PassLayout& layout) const {
  const Tensor out = down_proj.forward(mixed, torch::kFloat32, layout.dropout);
  if (!mlp_out_norm.defined()) return h + out;
  return h + rms_norm(out, mlp_out_norm, shape.norm_epsilon, torch::kFloat32);
}

Tensor DecoderBlock::mlp(const Tensor& h, const PassLayout& layout) const {
  const Tensor x = mlp_input(h, layout);
  if (experts.empty()) return add_mlp(h, mlp_mix(x, layout), layout);
  return h + mixture_of_experts(x, router, experts,
                                {.used = shape.experts_used,
                                 .sums_to_one = shape.expert_weights_sum_to_one,
                                 .activation = shape.activation,
                                 .compute_dtype = layout.compute_dtype},
                                layout.dropout);
}

Tensor DecoderBlock::forward(const Tensor& h, const PassLayout& layout) const {
  const Tensor mixed = attention_mix(attention_input(h, layout), layout);
  return mlp(add_attention(h, mixed, layout), layout);
}

Tensor DecoderBlock::forward_checkpointed(const Tensor& h, const PassLayout& layout) const {
  for (const auto* linear : linears()) {
    if (!linear->adapter()) continue;
    auto pass = c10::make_intrusive<BlockPass>();
    pass->block = this;
    pass->layout = layout;
    return CheckpointedBlockFunction::apply(h, linear->adapter()->a, pass);
  }
  return forward(h, layout);
}

Tensor DecoderBlock::forward_cached(const Tensor& h, const PassLayout& layout,
                                    KvCache::Layer& cache, int64_t cached_tokens) const {
  const int64_t n = h.size(0), total = cached_tokens + n;
  const Tensor x = attention_input(h, layout);
  const Heads heads = heads_of(x, layout);
  const auto per_head = [&](const Tensor& t) {  // [kv heads, n, D]
    return t.reshape({n, shape.kv_heads, shape.attention.head_dim}).transpose(0, 1);
  };
  cache.keys.narrow(1, cached_tokens, n).copy_(per_head(heads.k));
  cache.values.narrow(1, cached_tokens, n).copy_(per_head(heads.v));
  Tensor keys = cache.keys.narrow(1, 0, total), values = cache.values.narrow(1, 0, total);
  round_cached_kv(keys, values, cached_tokens, layout.kv_rounding);
  const Tensor mixed = cached_attention(heads.q, keys, values, shape.attention);
  return mlp(add_attention(h, mixed, layout), layout);
}

namespace {

template <class Linear, class Block>
std::vector<Linear*> linears_of(Block& b) {
  const bool fused = b.shape.has_fused_projections;
  std::vector<Linear*> all;
  if (fused) {
    all = {&b.qkv_proj, &b.o_proj};
  } else {
    all = {&b.q_proj, &b.k_proj, &b.v_proj, &b.o_proj};
  }
  if (!b.experts.empty()) {
    for (auto& e : b.experts) {
      all.insert(all.end(), {&e.gate_proj, &e.up_proj, &e.down_proj});
    }
  } else if (fused) {
    all.insert(all.end(), {&b.gate_up_proj, &b.down_proj});
  } else {
    all.insert(all.end(), {&b.gate_proj, &b.up_proj, &b.down_proj});
  }
  return all;
}

}  // namespace

std::vector<lora::LoraLinear*> DecoderBlock::linears() {
  return linears_of<lora::LoraLinear>(*this);
}

std::vector<const lora::LoraLinear*> DecoderBlock::linears() const {
  return linears_of<const lora::LoraLinear>(*this);
}

lora::LoraLinear& DecoderBlock::linear(io::LinearSlot slot, int64_t expert) {
  using io::LinearSlot;
  ExpertMlp* mlp = expert < 0 ? nullptr : &experts[static_cast<size_t>(expert)];
  switch (slot) {
    case LinearSlot::kQuery:
      return q_proj;
    case LinearSlot::kKey:
      return k_proj;
    case LinearSlot::kValue:
      return v_proj;
    case LinearSlot::kQkv:
      return qkv_proj;
    case LinearSlot::kOutput:
      return o_proj;
    case LinearSlot::kGate:
      return mlp != nullptr ? mlp->gate_proj : gate_proj;
    case LinearSlot::kUp:
      return mlp != nullptr ? mlp->up_proj : up_proj;
    case LinearSlot::kGateUp:
      return gate_up_proj;
    case LinearSlot::kDown:
      break;
  }
  return mlp != nullptr ? mlp->down_proj : down_proj;
}

std::vector<const torch::Tensor*> DecoderBlock::norms() const {
  std::vector<const Tensor*> all;
  for (const Tensor* norm :
       {&input_norm, &query_norm, &key_norm, &attention_out_norm, &attention_norm, &mlp_out_norm}) {
    if (norm->defined()) all.push_back(norm);
  }
  return all;
}

}  // namespace qlora::model
