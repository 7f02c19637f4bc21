#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "io/gguf.h"
#include "io/hf_config.h"

namespace qlora::io {

/// Where a Hugging Face tensor of the Llama architecture lies in a GGUF file.
struct GgufName {
  std::string name;            // "blk.0.attn_q.weight"
  bool rope_permuted = false;  // q and k projections: rows stand in llama.cpp's order
};

/// GGUF name of a Hugging Face name: "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight".
/// Nothing for a name that the Llama architecture does not have.
std::optional<GgufName> gguf_llama_name(std::string_view hf_name);

/// The config that the metadata of a GGUF file stand for.
///   Tied      a file without output.weight has tied embeddings
///   Rope      linear and yarn scaling from llama.rope.scaling.*; the tensor rope_freqs.weight is
///             turned back into llama3 parameters and refused where none reproduce it
///   throws    FormatError for another general.architecture, missing keys, values out of range,
///             mixture-of-experts files and every tensor that the Llama architecture does not have
HfConfig gguf_llama_config(const GgufReader& gguf);

}  // namespace qlora::io
