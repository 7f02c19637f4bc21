#pragma once

#include <cstdint>

#include "quant/affine_options.h"

namespace qlora::quant {

/// A matrix [rows, cols] and the grids of its groups [rows, groups]. Group of column k:
/// group_of[k], or k / group_size where that is null.
///   Numerics  bit-exact with affine_math.h on every instruction set and thread count
struct AffineArgs {
  const float* weight;  // [rows, cols]
  int64_t rows;
  int64_t cols;
  int64_t group_size;         // divides cols where group_of is null
  int64_t groups;             // of a row
  const int32_t* group_of;    // [cols], each in [0, groups), or null
  AffineOptions options;      // group_size is not read
  float* scales;              // [rows, groups]
  uint8_t* zeros;             // [rows, groups]
  const float* value_scales;  // [rows, groups] of values, where cpu::affine_round multiplies codes
                              // with others than `scales`; group_of is null; or null
  uint8_t* codes;             // [rows, cols]
  float* values;              // [rows, cols]
  int64_t* first_bad_row;     // lowered to the first row with NaN, infinity or an infinite scale
  void* stream = nullptr;     // cudaStream_t
};

namespace cpu {
/// scales and zeros of runs of columns from weight (group_of is not read).
void affine_grids(const AffineArgs& args);

/// codes and values (either may be null) of weight on the grids that are given.
void affine_round(const AffineArgs& args);

/// Both at once, in one pass through the weight: values and, where not null, codes, scales, zeros.
void affine_fit_and_round(const AffineArgs& args);

/// values = round(weight · column_scale) / column_scale - weight, on grids of the scaled weight:
/// the error of a weight whose columns are rounded scaled.
///   column_scale  [cols], positive
void affine_scaled_error(const AffineArgs& args, const float* column_scale);

/// values from codes and grids.
void affine_values(const AffineArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void affine_grids(const AffineArgs& args);
void affine_round(const AffineArgs& args);
void affine_fit_and_round(const AffineArgs& args);
void affine_values(const AffineArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
