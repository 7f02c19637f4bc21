#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>

#include "quant/affine_options.h"

namespace qlora::quant {

/// A weight matrix [N, K] on an affine grid, one scale and zero point per row and group of columns:
/// w[n, k] = scales[n, g] · (codes[n, k] - zeros[n, g]),  g = group_of[k], or k / group_size.
struct AffineTensor {
  torch::Tensor codes;     // [N, K] u8, one code a byte
  torch::Tensor scales;    // [N, groups] f32, each a number of options.scale_type
  torch::Tensor zeros;     // [N, groups] u8
  torch::Tensor group_of;  // [K] i32, or undefined: groups are runs of columns
  AffineOptions options;

  int64_t rows() const { return codes.size(0); }
  int64_t cols() const { return codes.size(1); }
  int64_t groups() const { return scales.size(1); }
};

/// Number type of a tensor of such scales.
torch::ScalarType torch_type(ScaleType type);

/// Reverse; none for a type that is no ScaleType.
std::optional<ScaleType> scale_type_of(torch::ScalarType type);

/// Whether the parts fit each other: a tensor may come from a file or from another program.
///   throws    ShapeError, ValueError (number types, a group that is not there)
void check_affine(const AffineTensor& t);

/// Columns that share a scale: group_size, or K where it is -1.
///   throws    ConfigError for bits other than 2, 3, 4, 8 or a group_size under 1 that is not -1;
///             ShapeError where it does not divide K (with the sizes that do)
int64_t checked_group_size(int64_t cols, const AffineOptions& options);

/// Scale and zero point of every group from its smallest and largest element.
///   weight    [N, K] f32, CPU or CUDA
///   returns   an AffineTensor whose codes are undefined
///   throws    as checked_group_size; ValueError where an element is not finite, or a scale leaves
///             its type
AffineTensor affine_grids(const torch::Tensor& weight, const AffineOptions& options);

/// Rounds every element to its grid ("round to nearest", RTN).
///   weight    [N, K] f32, CPU or CUDA; not changed
///   Numerics  bit-exact between back ends and thread counts
AffineTensor quantize_affine(const torch::Tensor& weight, const AffineOptions& options);

/// Codes of a matrix on grids that are given; elements beyond a grid take its end.
void requantize_affine(const torch::Tensor& weight, AffineTensor& grids);

/// scales · (codes - zeros).  [N, K] f32 on the device of t
torch::Tensor dequantize_affine(const AffineTensor& t);

/// quantize and dequantize at once, without codes: what a solver tries many times.
torch::Tensor round_to_grid(const torch::Tensor& weight, const AffineOptions& options);

}  // namespace qlora::quant
