#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "lora/dropout.h"
#include "lora/frozen_weight.h"

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

/// y = x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ + bias.
///   Backward  gives dx, dA, dB and never a gradient of W; W is decoded again
///   Numbers   products in the dtype of x, their sum in FP32; A and B are rounded to their dtype
class LoraLinear {
 public:
  LoraLinear() = default;
  LoraLinear(std::string name, FrozenWeight weight, torch::Tensor bias = {});

  /// x [T, K] in the compute dtype -> y [T, N] in out_dtype (f32 or the dtype of x).
  torch::Tensor forward(const torch::Tensor& x, torch::ScalarType out_dtype,
                        const DropoutKey& dropout) const;

  /// throws ShapeError where A [R, K] and B [N, R] do not fit the weight [N, K]
  void set_adapter(Adapter adapter);
  void set_weight(FrozenWeight weight) { weight_ = std::move(weight); }
  const std::optional<Adapter>& adapter() const { return adapter_; }
  const std::string& name() const { return name_; }
  const FrozenWeight& weight() const { return weight_; }
  const torch::Tensor& bias() const { return bias_; }

 private:
  std::string name_;
  FrozenWeight weight_;
  torch::Tensor bias_;           // [N] f32, or undefined
  uint64_t dropout_stream_ = 0;  // hash of the name: each module draws numbers of its own
  std::optional<Adapter> adapter_;
};

}  // namespace qlora::lora
