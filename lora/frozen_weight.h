#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <variant>

#include "quant/fp8.h"
#include "quant/input_quantizer.h"
#include "quant/nf4.h"
#include "quant/packed_affine.h"

namespace qlora::lora {

/// A weight matrix that is never trained: plain numbers, or codes that each product decodes.
///   Shape     [N, K] out features, in features
class FrozenWeight {
 public:
  FrozenWeight() = default;
  explicit FrozenWeight(torch::Tensor dense) : storage_(std::move(dense)) {}
  explicit FrozenWeight(quant::Nf4Tensor nf4) : storage_(std::move(nf4)) {}
  explicit FrozenWeight(quant::PackedAffine affine) : storage_(std::move(affine)) {}
  explicit FrozenWeight(quant::Fp8Tensor fp8) : storage_(std::move(fp8)) {}

  /// The matrix in dtype.  [N, K]
  ///   Scratch   a quantized weight is decoded into one buffer a thread, which the next call
  ///             overwrites: use the result before asking for another
  torch::Tensor dense(torch::ScalarType dtype) const;
  /// The same in memory of its own.
  torch::Tensor dense_copy(torch::ScalarType dtype) const;

  int64_t rows() const;   // N
  int64_t cols() const;   // K
  int64_t bytes() const;  // as held
  bool is_quantized() const { return !holds<torch::Tensor>(); }
  /// The 4-bit codes; std::bad_variant_access where it holds another form.
  const quant::Nf4Tensor& quantized() const { return as<quant::Nf4Tensor>(); }

  template <class T>
  bool holds() const {
    return std::holds_alternative<T>(storage_);
  }
  template <class T>
  const T& as() const {
    return std::get<T>(storage_);
  }

  /// What an engine that serves these codes does to the inputs; nothing for most forms.
  const std::optional<quant::InputQuantizer>& input_quantizer() const { return inputs_; }
  void set_input_quantizer(quant::InputQuantizer quantizer) { inputs_ = quantizer; }

 private:
  std::variant<torch::Tensor, quant::Nf4Tensor, quant::PackedAffine, quant::Fp8Tensor> storage_;
  std::optional<quant::InputQuantizer> inputs_;
};

}  // namespace qlora::lora
