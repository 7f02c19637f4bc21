#include "model/decoder_block.h"

#include <ATen/core/grad_mode.h>
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
};

/// Keeps the block's input alone and runs the block again when its gradient arrives.
///   Source    Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174
struct CheckpointedBlockFunction : torch::autograd::Function<CheckpointedBlockFunction> {
  /// `anchor` is any trainable tensor of the block: it makes the result ask for a gradient where
  /// h, the embedding's output, does not.
  static Tensor forward(AutogradContext* ctx, const Tensor& h, const Tensor& anchor,
                        const c10::intrusive_ptr<BlockPass>& pass) {
    (void)anchor;
    ctx->save_for_backward({h});
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    return pass->block->forward(h, pass->layout);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto pass =
        c10::static_intrusive_pointer_cast<BlockPass>(ctx->saved_data["pass"].toCapsule());
    const at::AutoGradMode recording(true);
    Tensor h = ctx->get_saved_variables()[0].detach().requires_grad_(ctx->needs_input_grad(0));
    const Tensor out = pass->block->forward(h, pass->layout);
    torch::autograd::backward({out}, {gradients[0]});  // adds to the adapters' gradients
    return {h.grad(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor DecoderBlock::rotated(const lora::LoraLinear& projection, const Tensor& x,
                             const PassLayout& layout) const {
  return apply_rope(projection.forward(x, layout.compute_dtype, layout.dropout), layout.rope,
                    shape.head_dim);
}

Tensor DecoderBlock::attention_input(const Tensor& h, const PassLayout& layout) const {
  return rms_norm(h, input_norm, shape.norm_epsilon, layout.compute_dtype);
}

Tensor DecoderBlock::attention_mix(const Tensor& x, const PassLayout& layout) const {
  const Tensor q = rotated(q_proj, x, layout);                         // [T, H·D]
  Tensor k = rotated(k_proj, x, layout);                               // [T, kv·D]
  Tensor v = v_proj.forward(x, layout.compute_dtype, layout.dropout);  // [T, kv·D]
  round_kv(k, v, layout.segment_starts, shape.head_dim, layout.kv_rounding);
  return attention(q, k, v, layout.segment_starts, shape.head_dim);
}

Tensor DecoderBlock::add_attention(const Tensor& h, const Tensor& mixed,
                                   const PassLayout& layout) const {
  return h + o_proj.forward(mixed, torch::kFloat32, layout.dropout);
}

Tensor DecoderBlock::mlp_input(const Tensor& h, const PassLayout& layout) const {
  return rms_norm(h, attention_norm, shape.norm_epsilon, layout.compute_dtype);
}

Tensor DecoderBlock::mlp_mix(const Tensor& x, const PassLayout& layout) const {
  const Tensor gate = gate_proj.forward(x, layout.compute_dtype, layout.dropout);  // [T, F]
  const Tensor up = up_proj.forward(x, layout.compute_dtype, layout.dropout);      // [T, F]
  return swiglu(gate, up);
}

Tensor DecoderBlock::add_mlp(const Tensor& h, const Tensor& mixed, const PassLayout& layout) const {
  return h + down_proj.forward(mixed, torch::kFloat32, layout.dropout);
}

Tensor DecoderBlock::mlp(const Tensor& h, const PassLayout& layout) const {
  return add_mlp(h, mlp_mix(mlp_input(h, layout), layout), layout);
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
  const Tensor q = rotated(q_proj, x, layout);
  Tensor k = rotated(k_proj, x, layout);
  Tensor v = v_proj.forward(x, layout.compute_dtype, layout.dropout);
  round_kv(k, v, layout.segment_starts, shape.head_dim, layout.kv_rounding);
  const auto per_head = [&](const Tensor& t) {
    return t.view({n, shape.kv_heads, shape.head_dim}).transpose(0, 1);  // [kv heads, n, D]
  };
  cache.keys.narrow(1, cached_tokens, n).copy_(per_head(k));
  cache.values.narrow(1, cached_tokens, n).copy_(per_head(v));
  const Tensor mixed = cached_attention(q, cache.keys.narrow(1, 0, total),
                                        cache.values.narrow(1, 0, total), shape.head_dim);
  return mlp(add_attention(h, mixed, layout), layout);
}

std::vector<lora::LoraLinear*> DecoderBlock::linears() {
  return {&q_proj, &k_proj, &v_proj, &o_proj, &gate_proj, &up_proj, &down_proj};
}

std::vector<const lora::LoraLinear*> DecoderBlock::linears() const {
  return {&q_proj, &k_proj, &v_proj, &o_proj, &gate_proj, &up_proj, &down_proj};
}

}  // namespace qlora::model
