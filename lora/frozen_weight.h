#pragma once

#include <torch/types.h>

#include <cstdint>
#include <variant>

#include "quant/nf4.h"

namespace qlora::lora {

/// A weight matrix that is never trained: NF4/FP4 codes, or plain numbers.
///   Shape     [N, K] out features, in features
class FrozenWeight {
 public:
  FrozenWeight() = default;
  explicit FrozenWeight(quant::Nf4Tensor quantized) : storage_(std::move(quantized)) {}
  explicit FrozenWeight(torch::Tensor dense) : storage_(std::move(dense)) {}

  /// The matrix in dtype.  [N, K]
  ///   Scratch   a quantized weight is decoded into one buffer a thread, which the next call
  ///             overwrites: use the result before asking for another
  torch::Tensor dense(torch::ScalarType dtype) const;
  /// The same in memory of its own.
  torch::Tensor dense_copy(torch::ScalarType dtype) const;

  int64_t rows() const;   // N
  int64_t cols() const;   // K
  int64_t bytes() const;  // as held
  bool is_quantized() const { return std::holds_alternative<quant::Nf4Tensor>(storage_); }
  const quant::Nf4Tensor& quantized() const { return std::get<quant::Nf4Tensor>(storage_); }

 private:
  std::variant<torch::Tensor, quant::Nf4Tensor> storage_;
};

}  // namespace qlora::lora
