#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/hf_config.h"

namespace qlora::io {

/// A tensor that a Llama checkpoint of this config must hold, under its two names.
struct ExpectedTensor {
  std::string name;            // Hugging Face: "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;  // [N, K] or [N]
  std::string gguf_name;       // llama.cpp: "blk.0.attn_q.weight"
  bool rope_permuted = false;  // q and k: in GGUF files the rows stand in llama.cpp's order
};

/// All tensors of a Llama checkpoint: embedding, block by block, norm, lm_head last.
/// lm_head.weight is not among them where the embeddings are tied.
///   Requires  a config that validate() accepts
std::vector<ExpectedTensor> llama_tensors(const HfConfig& config);

}  // namespace qlora::io
