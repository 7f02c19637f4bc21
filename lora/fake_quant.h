#pragma once

#include <torch/types.h>

#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "lora/adapter.h"
#include "lora/frozen_weight.h"
#include "quant/affine_options.h"
#include "quant/input_observer.h"
#include "quant/input_quantizer.h"

namespace qlora::lora {

/// E4M3 numbers with one scale a row, or one for the matrix.
struct Fp8Grid {
  quant::ScaleType scale_type = quant::ScaleType::kBF16;
  bool whole_matrix = false;
};

/// What a weight is rounded to while its adapter is trained: the grid of the files that ship.
using WeightGrid = std::variant<quant::AffineOptions, Fp8Grid>;

/// How held scales and zero points follow from a weight.
enum class GridFit {
  kRange,  // the range of each group
  kClip,   // the narrowed range with the least squared error
  kGiven,  // they were read from a file
};

/// Scales and zero points that stay where they are while the weight moves: elements may be cut off.
struct HeldGrid {
  GridFit fit = GridFit::kRange;
  torch::Tensor scales;      // [N, groups] f32, as fitted
  torch::Tensor zeros;       // [N, groups] u8
  torch::Tensor factor;      // [N, groups] f32, an autograd leaf; undefined: scales are not learned
  bool is_anchored = false;  // codes are rounded with `scales`, whatever becomes of factor

  /// scales · factor, rounded to the number type of files: what codes are multiplied with and what
  /// ships.  [N, groups] f32
  torch::Tensor effective(quant::ScaleType type) const;

  /// What weights are divided by to find their codes.  [N, groups] f32
  torch::Tensor of_codes(quant::ScaleType type) const {
    return is_anchored ? scales : effective(type);
  }
};

/// What a linear computes with, as the engine that serves its files will.
struct LinearGrid {
  WeightGrid weight;
  std::optional<quant::InputQuantizer> inputs;     // nothing: as they are
  std::shared_ptr<quant::InputObserver> observer;  // measures the scale of static inputs, or null
  std::shared_ptr<HeldGrid> held;  // null: the range of the merged weight, fitted at each pass

  /// What is done to the inputs by now: none before an observer has seen any.
  std::optional<quant::InputQuantizer> input_quantizer() const;

  /// Where elements may be cut off or scales are learned, the gradient of the weight is needed.
  bool needs_weight_gradient() const { return held != nullptr; }
};

/// throws ConfigError for a weight that is neither plain numbers nor NF4
void check_can_be_rounded(const FrozenWeight& weight);

/// Learned scales stay this part of the fitted ones at least: a group that training makes small
/// drifts to 0, and no farther.
inline constexpr float kLeastFactor = 0x1p-10F;

/// After a step: factors that have drifted to 0 or a little below are put on kLeastFactor.
///   throws    ValueError naming the module where one is not finite or has leapt below -0.1, which
///             no learning rate that trains does
void keep_in_range(const std::string& module, const HeldGrid& grid);

/// Q(W + s·B·A), or Q(W) without an adapter: the weight that ships, decoded.
///   weight    plain numbers or NF4, on the CPU; the merged weight exists for some rows at a time
///   returns   [N, K] in dtype, in the buffer of FrozenWeight::dense: use it before the next one
///   Numerics  merging and rounding are bit-exact on every target and thread count and equal the
///             exporter's; f16 and bf16 are rounded once more, as every product rounds a weight
///   throws    ValueError where a merged number or a scale is not finite, with the row; ShapeError
///             for a group that does not divide K; ConfigError for another form of weight
///   cost      2 N K R + about 20 N K operations
///   Source    Jacob et al., Quantization and Training of Neural Networks, arXiv:1712.05877
torch::Tensor fake_quantized(const FrozenWeight& weight, const Adapter* adapter,
                             const LinearGrid& grid, torch::ScalarType dtype);

/// What a held grid does to the gradient of the rounded weight.
struct GridGradient {
  torch::Tensor rounded;  // as fake_quantized
  torch::Tensor weight;   // [N, K] in the type of the arriving gradient: 0 where elements are cut
  torch::Tensor factor;   // [N, groups] f32, with LSQ's gradient scale; undefined: not learned
};

/// Forward again and backward in one pass over the merged weight.
///   gradient  [N, K] f32, f16 or bf16, of the rounded weight
///   Requires  grid.held
///   Numerics  the mask is exact; factor sums a group's products in f32
///   Mask      0 where a code is cut, as torch's fake_quantize and LSQ's equation 3 have it. So a
///             group's positive extreme may be cut at once on a symmetric GPTQ grid, which ends
///             half a step below it: its rounded value does not move with it
GridGradient fake_quantized_backward(const FrozenWeight& weight, const Adapter* adapter,
                                     const LinearGrid& grid, const torch::Tensor& gradient);

/// The merged weight before it is rounded: what the exporter rounds.  [N, K] f32
torch::Tensor merged_or_plain(const FrozenWeight& weight, const Adapter* adapter);

/// fake_quantized from whole matrices, one step after the other: the plain twin.
torch::Tensor fake_quantized_composed(const FrozenWeight& weight, const Adapter* adapter,
                                      const LinearGrid& grid, torch::ScalarType dtype);

}  // namespace qlora::lora
