#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string_view>

namespace qlora::lora {

/// Where a dropout mask comes from: the same numbers give the same mask, so that a recomputed
/// forward (gradient checkpointing, resume) drops the same elements.
struct DropoutKey {
  bool training = false;
  uint64_t seed = 0;
  uint64_t draw = 0;  // of the micro-batch
};

/// Number of a module's own sequence of masks: FNV-1a of its name.
uint64_t dropout_stream(std::string_view module_name);

/// Zeroes each element with probability p and scales the others by 1 / (1 − p); no graph. Applied
/// to a gradient with the same key it is its own backward.
///   x         f32, f16 or bf16; p is resolved to 1/65536
///   stream    number of the module: each draws a mask of its own
///   Numerics  bit-exact on every target and thread count
///   Source    Srivastava et al., JMLR 15 (2014)
torch::Tensor dropout(const torch::Tensor& x, double p, const DropoutKey& key, uint64_t stream);

}  // namespace qlora::lora
