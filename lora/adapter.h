#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

namespace qlora::lora {

/// The trainable part of one linear: s·B·A beside the frozen W.
struct Adapter {
  torch::Tensor a;                            // [R, K] f32 master, an autograd leaf
  torch::Tensor b;                            // [N, R] f32 master, an autograd leaf
  double alpha = 0;                           // as in the configuration, for the adapter file
  double scale = 0;                           // s = alpha / r, or alpha / sqrt(r)
  double dropout = 0;                         // on the adapter's input, training only
  torch::ScalarType dtype = torch::kFloat16;  // of A and B in the forward and in files

  int64_t rank() const { return a.size(0); }
};

/// A reference to an adapter under its module's name, "model.layers.0.self_attn.q_proj".
struct NamedAdapter {
  std::string module;
  Adapter adapter;  // tensors share storage with the module's
};

}  // namespace qlora::lora
