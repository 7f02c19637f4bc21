#pragma once

#include "io/hf_config.h"
#include "model/plan_shape.h"

namespace qlora::testing {

/// A Llama of the first generation: as many kv heads as heads, a vocabulary of 32,000.
inline io::HfConfig llama_config(int64_t width, int64_t mlp, int64_t layers, int64_t heads) {
  return {.architecture = "LlamaForCausalLM",
          .model_type = "llama",
          .vocab_size = 32000,
          .hidden_size = width,
          .intermediate_size = mlp,
          .num_hidden_layers = layers,
          .num_attention_heads = heads,
          .num_key_value_heads = heads,
          .head_dim = width / heads,
          .max_position_embeddings = 2048};
}

inline io::HfConfig llama_7b() {
  return llama_config(4096, 11008, 32, 32);
}
inline io::HfConfig llama_33b() {
  return llama_config(6656, 17920, 60, 52);
}
inline io::HfConfig llama_65b() {
  return llama_config(8192, 22016, 80, 64);
}

/// `rows` sequences of `length` tokens, all of them learnt.
inline model::MicroBatch full_batch(int64_t rows, int64_t length) {
  return {
      .rows = rows, .tokens = rows * length, .longest_row = length, .target_tokens = rows * length};
}

}  // namespace qlora::testing
