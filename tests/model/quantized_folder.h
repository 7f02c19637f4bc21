#pragma once

#include <torch/types.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "io/safetensors.h"
#include "quant/nf4.h"
#include "tests/io/test_files.h"

namespace qlora::testing {

inline io::DType io_dtype(torch::ScalarType type) {
  switch (type) {
    case torch::kUInt8:
      return io::DType::kU8;
    case torch::kInt8:
      return io::DType::kI8;
    case torch::kInt32:
      return io::DType::kI32;
    case torch::kInt64:
      return io::DType::kI64;
    case torch::kFloat16:
      return io::DType::kF16;
    case torch::kFloat8_e4m3fn:
      return io::DType::kF8E4M3;
    default:
      return io::DType::kF32;
  }
}

/// Writes a Hugging Face folder of these tensors.
inline void write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                        const quant::TensorMap& tensors, const char* file = "model.safetensors") {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump();
  std::vector<torch::Tensor> kept;
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : tensors) {
    kept.push_back(tensor.contiguous());
    views.push_back({name,
                     io_dtype(tensor.scalar_type()),
                     tensor.sizes().vec(),
                     {static_cast<const std::byte*>(kept.back().const_data_ptr()),
                      static_cast<size_t>(tensor.nbytes())}});
  }
  io::write_safetensors(folder / file, views, {{"format", "pt"}});
}

/// Sizes of the tests' Llama: two blocks, C 64, F 96, one head of keys and values, V 64.
inline nlohmann::json tiny_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 64},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"head_dim", 32},
          {"max_position_embeddings", 128},
          {"tie_word_embeddings", false}};
}

struct TinyLinear {
  std::string module;
  int64_t rows, cols;
};

inline std::vector<TinyLinear> tiny_linears() {
  std::vector<TinyLinear> all;
  for (int block = 0; block < 2; ++block) {
    const std::string at = "model.layers." + std::to_string(block) + ".";
    all.insert(all.end(), {{at + "self_attn.q_proj", 64, 64},
                           {at + "self_attn.k_proj", 32, 64},
                           {at + "self_attn.v_proj", 32, 64},
                           {at + "self_attn.o_proj", 64, 64},
                           {at + "mlp.gate_proj", 96, 64},
                           {at + "mlp.up_proj", 96, 64},
                           {at + "mlp.down_proj", 64, 96}});
  }
  return all;
}

/// Everything but the linears of the blocks.
inline quant::TensorMap tiny_rest() {
  quant::TensorMap tensors = {{"model.embed_tokens.weight", torch::randn({64, 64})},
                              {"model.norm.weight", torch::rand({64}) + 0.5},
                              {"lm_head.weight", torch::randn({64, 64}) * 0.2}};
  for (int block = 0; block < 2; ++block) {
    const std::string at = "model.layers." + std::to_string(block) + ".";
    tensors[at + "input_layernorm.weight"] = torch::rand({64}) + 0.5;
    tensors[at + "post_attention_layernorm.weight"] = torch::rand({64}) + 0.5;
  }
  return tensors;
}

}  // namespace qlora::testing
