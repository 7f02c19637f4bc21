#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/hf_config.h"

namespace qlora::io {

/// A tensor that a Llama checkpoint of this config must hold, under its Hugging Face name.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

/// All tensors of a Llama checkpoint, embedding first, then block by block, norm and lm_head last.
/// lm_head.weight is not among them where the embeddings are tied.
std::vector<ExpectedTensor> llama_tensors(const HfConfig& config);

}  // namespace qlora::io
