#pragma once

#include <cstdint>

#include "quant/affine_options.h"

namespace qlora::quant {

/// Some rows of a weight on given grids, and the gradient that arrives at their rounded numbers.
///   Numerics  values and the mask are bit-exact with affine_math.h; the sums of a group go in
///   lanes
///             and are bounded, the same on every thread count
struct AffineGradientArgs {
  const float* weight;  // [rows, cols]
  int64_t rows;
  int64_t cols;
  int64_t group_size;  // divides cols
  int64_t bits;
  const float* scales;        // [rows, cols / group_size]
  const uint8_t* zeros;       // the same
  const float* value_scales;  // the same: anchored codes are multiplied with these; or null
  float* values;              // [rows, cols] rounded, or null
  float* gradient;            // [rows, cols] in: of the rounded numbers; out: of weight
  float* scale_gradient;  // [rows, cols / group_size] sum of gradient · slope by scale, or null
};

namespace cpu {
/// In the caller's thread.
void affine_gradient(const AffineGradientArgs& args);
}  // namespace cpu

}  // namespace qlora::quant
