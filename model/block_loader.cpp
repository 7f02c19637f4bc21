#include "model/block_loader.h"

#include <ATen/ops/empty.h>

#include "core/error.h"
#include "io/tensor_layout.h"
#include "model/device_choice.h"
#include "model/load.h"

namespace qlora::model {

namespace {

/// The same numbers in a half type where one holds them all.
torch::Tensor narrowest(const torch::Tensor& weight) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    torch::Tensor half = weight.to(dtype);
    if (half.to(torch::kFloat32).equal(weight)) return half;
  }
  return weight;
}

}  // namespace

BlockLoader::BlockLoader(const ModelOptions& options, const quant::Nf4Options& quantization,
                         torch::Device place)
    : options_(options),
      quantization_(quantization),
      compute_dtype_(resolve_compute_dtype(options.compute_dtype, place.is_cuda())),
      source_(options.model_path) {
  check_device(options.device);
}

torch::Tensor BlockLoader::embedding() const {
  return source_.dense("model.embed_tokens.weight", compute_dtype_);
}

torch::Tensor BlockLoader::final_norm() const {
  return norm("model.norm");
}

torch::Tensor BlockLoader::lm_head(const torch::Tensor& embedding) const {
  checkpoint().check_tied_weights();
  return config().tie_word_embeddings ? embedding : source_.dense("lm_head.weight", compute_dtype_);
}

std::vector<std::string> BlockLoader::linear_names(int64_t index) const {
  std::vector<std::string> names;
  for (auto& linear : io::block_linears(config(), index)) names.push_back(std::move(linear.name));
  return names;
}

torch::Tensor BlockLoader::norm(const std::string& module) const {
  if (module.empty()) return {};
  torch::Tensor weight = source_.dense(module + ".weight", torch::kFloat32).view({-1});
  const double offset = config().arch.norm_offset;
  return offset == 0 ? weight : weight.add_(offset);
}

DecoderBlock BlockLoader::block_without_weights(int64_t index) const {
  QLORA_CHECK(index >= 0 && index < block_count(), ValueError,
              "[model] block {} asked for; {} has {}", index, options_.model_path, block_count());
  const auto& c = config();
  const io::BlockNorms norms = io::block_norms(c, index);
  DecoderBlock b;
  b.shape = block_shape(c, index);
  b.input_norm = norm(norms.input);
  b.attention_out_norm = norm(norms.attention_out);
  b.attention_norm = norm(norms.mlp_input);
  b.mlp_out_norm = norm(norms.mlp_out);
  b.query_norm = norm(norms.query);
  b.key_norm = norm(norms.key);
  if (c.block(index).has_experts) {
    b.experts.resize(static_cast<size_t>(c.arch.experts.count));
    b.router = source_.dense(io::router_name(c, index) + ".weight", torch::kFloat32);
  }
  for (const io::BlockLinear& l : io::block_linears(c, index)) {
    b.linear(l.slot, l.expert) = lora::LoraLinear(l.name, lora::FrozenWeight(), bias(l.name));
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
