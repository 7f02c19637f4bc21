#pragma once

#include <cstdint>

#include "quant/affine_options.h"

namespace qlora::quant {

/// Part of a group's greatest magnitude that candidate `step` of the clip search keeps.
inline float kept_magnitude(int64_t step, int64_t steps) {
  return static_cast<float>(1 - static_cast<double>(step) / static_cast<double>(steps));
}

/// Greatest magnitude per row and group with the least dᵀ G d, d = round(cut w) - w; G is the part
/// of the Gram matrix [cols, cols] that belongs to the group's columns. The first of equals.
///   Numerics  bit-exact between instruction sets and thread counts: sums run over columns in order
struct ClipArgs {
  const float* weight;  // [rows, cols]
  int64_t rows;
  int64_t cols;
  int64_t group_size;  // divides cols
  AffineOptions options;
  const float* gram;       // [cols, cols], symmetric
  int64_t steps;           // candidate c keeps kept_magnitude(c, steps),
  int64_t tried;           // for c in [0, tried)
  float* magnitudes;       // [rows, cols / group_size]
  int64_t* first_bad_row;  // lowered to the first row of a tile with a grid that is not finite
};

namespace cpu {
void search_clip(const ClipArgs& args);
}  // namespace cpu

}  // namespace qlora::quant
