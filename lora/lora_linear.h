#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "lora/adapter.h"
#include "lora/dropout.h"
#include "lora/fake_quant.h"
#include "lora/frozen_weight.h"

namespace qlora::lora {

/// y = x·Wᵀ + s·(dropout(x)·Aᵀ)·Bᵀ + bias.
///   Backward  gives dx, dA, dB and never a gradient of W; W is decoded again
///   Numbers   products in the dtype of x, their sum in FP32; A and B are rounded to their dtype
///   Grid      with one: y = x·Q(W + s·B·A)ᵀ + bias, without dropout. The gradient
///             passes the rounding as if it were not there (straight-through, Bengio et al.,
///             arXiv:1308.3432): dA = s·Bᵀ·dyᵀ·x and dB = s·dyᵀ·x·Aᵀ as without a grid, which is
///             exact where no element is cut off, as on grids from the smallest to the largest.
///             On held grids dyᵀ·x is formed, masked where elements are cut off, and gives the
///             gradient of learned scales too
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
  /// What weight and inputs are rounded to from now on, or nothing.
  void set_grid(std::optional<LinearGrid> grid) { grid_ = std::move(grid); }
  /// With a grid: the weight becomes the rounded one; adapter and grid are gone.
  void hold_rounded_weight();
  const std::optional<Adapter>& adapter() const { return adapter_; }
  const std::string& name() const { return name_; }
  const FrozenWeight& weight() const { return weight_; }
  const torch::Tensor& bias() const { return bias_; }
  const std::optional<LinearGrid>& grid() const { return grid_; }

 private:
  std::optional<quant::InputQuantizer> measured_inputs(const torch::Tensor& x, bool training) const;

  std::string name_;
  FrozenWeight weight_;
  torch::Tensor bias_;           // [N] f32, or undefined
  uint64_t dropout_stream_ = 0;  // hash of the name: each module draws numbers of its own
  std::optional<Adapter> adapter_;
  std::optional<LinearGrid> grid_;
};

}  // namespace qlora::lora
