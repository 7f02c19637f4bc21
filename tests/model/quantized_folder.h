#pragma once

#include <torch/types.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "lora/tensor_view.h"
#include "quant/nf4.h"
#include "tests/io/test_files.h"

namespace qlora::testing {

/// Writes a Hugging Face folder of these tensors.
inline void write_model(const std::filesystem::path& folder, const nlohmann::json& config,
                        const quant::TensorMap& tensors, const char* file = "model.safetensors") {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump();
  std::vector<torch::Tensor> kept;
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : tensors) {
    kept.push_back(tensor.contiguous());
    views.push_back(lora::tensor_view(name, kept.back()));
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
