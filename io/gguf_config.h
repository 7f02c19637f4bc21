#pragma once

#include <optional>
#include <span>

#include "io/gguf.h"
#include "io/hf_config.h"

namespace qlora::io {

/// The config that the metadata of a GGUF file stand for, for the families of io/gguf_family.h.
///   Tied      a file without output.weight has tied embeddings
///   Bias      read off the tensors: attn_q.bias, attn_output.bias and ffn_gate.bias of block 0
///   Rope      linear and yarn scaling from rope.scaling.*; the factors of rope_freqs.weight are
///             turned back into llama3 parameters, those of rope_factors_long and _short are
///             longrope's
///   Family    what llama.cpp's graph takes for granted (the windows of Gemma, SmolLM3's blocks
///             without rotation) is filled in
///   throws    FormatError for another general.architecture, a missing key, a value out of range,
///             experts, scaling that is not known, and tensors that the architecture does not have
HfConfig gguf_config(const GgufReader& gguf);

/// Llama3 parameters whose frequency factors are these (llama.cpp stores 1 / scale for each pair of
/// dimensions). Low, high and original length are known up to a common scale: low_freq_factor is 1.
///   factors   [D / 2], rising from 1 to the scaling factor
///   returns   nothing where no parameters give each factor back within 1e-4 of itself
std::optional<RopeParameters> llama3_from_factors(std::span<const float> factors, double theta);

}  // namespace qlora::io
