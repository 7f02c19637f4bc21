#pragma once

#include <cstdint>

#include "core/float_kind.h"

namespace qlora::quant {

/// abs_sum[k] += Σ_t |x[t, k]|,  abs_max[k] = max(abs_max[k], max_t |x[t, k]|).
///   Numerics  a column is summed in the order of its rows, in f32: the same bits for every
///             instruction set and thread count. A sum keeps NaN, a maximum may drop it
struct ColumnSizesArgs {
  const void* x;  // [rows, cols] of `kind`
  FloatKind kind;
  int64_t rows;
  int64_t cols;
  int64_t row_stride;  // elements
  float* abs_sum;      // [cols]
  float* abs_max;      // [cols]
};

namespace cpu {
void add_column_sizes(const ColumnSizesArgs& args);
}  // namespace cpu

}  // namespace qlora::quant
