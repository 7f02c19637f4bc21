#include "model/block_loader.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "model/device_choice.h"
#include "model/load.h"

namespace qlora::model {

namespace {

constexpr const char* kLinearNames[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};

/// The same numbers in a half type where one holds them all.
torch::Tensor narrowest(const torch::Tensor& weight) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    torch::Tensor half = weight.to(dtype);
    if (half.to(torch::kFloat32).equal(weight)) return half;
  }
  return weight;
}

std::string block_prefix(int64_t index) {
  return fmt::format("model.layers.{}.", index);
}

}  // namespace

BlockLoader::BlockLoader(const ModelOptions& options, const quant::Nf4Options& quantization)
    : options_(options),
      quantization_(quantization),
      compute_dtype_(resolve_compute_dtype(options.compute_dtype)),
      source_(options.model_path) {
  check_device(options.device);
}

torch::Tensor BlockLoader::embedding() const {
  return source_.dense("model.embed_tokens.weight", compute_dtype_);
}

torch::Tensor BlockLoader::final_norm() const {
  return source_.dense("model.norm.weight", torch::kFloat32).view({-1});
}

torch::Tensor BlockLoader::lm_head(const torch::Tensor& embedding) const {
  return config().tie_word_embeddings ? embedding : source_.dense("lm_head.weight", compute_dtype_);
}

std::vector<std::string> BlockLoader::linear_names(int64_t index) {
  std::vector<std::string> names;
  for (const char* name : kLinearNames) names.push_back(block_prefix(index) + name);
  return names;
}

DecoderBlock BlockLoader::block_without_weights(int64_t index) const {
  QLORA_CHECK(index >= 0 && index < block_count(), ValueError,
              "[model] block {} asked for; {} has {}", index, options_.model_path, block_count());
  const auto& c = config();
  const std::string prefix = block_prefix(index);
  DecoderBlock b;
  b.shape = {c.num_attention_heads, c.num_key_value_heads, c.head_dim, c.rms_norm_eps};
  b.input_norm = source_.dense(prefix + "input_layernorm.weight", torch::kFloat32).view({-1});
  b.attention_norm =
      source_.dense(prefix + "post_attention_layernorm.weight", torch::kFloat32).view({-1});
  const auto names = linear_names(index);
  const auto linears = b.linears();
  for (size_t i = 0; i < linears.size(); ++i) {
    *linears[i] = lora::LoraLinear(names[i], lora::FrozenWeight(), bias(names[i]));
  }
  return b;
}

DecoderBlock BlockLoader::block(int64_t index) const {
  DecoderBlock b = block_without_weights(index);
  for (auto* linear : b.linears()) linear->set_weight(weight(linear->name()));
  return b;
}

lora::FrozenWeight BlockLoader::weight(const std::string& module) const {
  const std::string name = module + ".weight";
  if (source_.is_packed(module)) return source_.packed(module);
  if (quantizes()) return lora::FrozenWeight(quantized(name));
  if (options_.exact_base) return lora::FrozenWeight(narrowest(source_.tensor_f32(name)));
  return lora::FrozenWeight(source_.dense(name, compute_dtype_));
}

torch::Tensor BlockLoader::bias(const std::string& module) const {
  if (!checkpoint().has(module + ".bias")) return {};
  return source_.dense(module + ".bias", torch::kFloat32).view({-1});
}

quant::Nf4Tensor BlockLoader::quantized(const std::string& name) const {
  const auto& shape = checkpoint().shape(name);
  torch::Tensor weight = at::empty({shape[0], shape[1]}, torch::kFloat32);
  checkpoint().tensor_f32(name, weight.mutable_data_ptr<float>());
  checkpoint().release(name);
  try {
    return quant::quantize_nf4(weight, quantization_);
  } catch (const ValueError& problem) {
    throw ValueError(fmt::format("[model] {} cannot be quantized: {} ({})", name, problem.what(),
                                 options_.model_path));
  }
}

}  // namespace qlora::model
