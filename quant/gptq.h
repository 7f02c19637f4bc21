#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>

#include "quant/affine.h"
#include "quant/gptq_options.h"
#include "quant/linear_statistics.h"

namespace qlora::quant {

/// What GPTQ needs of a linear's inputs: one for all weights that read them.
struct GptqFactor {
  torch::Tensor factor;  // [K, K] f32, U upper triangular, UᵀU = H⁻¹, columns in `order`;
                         // undefined where the Hessian could not be factored
  torch::Tensor order;   // [K] i64: column order[i] is rounded as the i-th; undefined: 0, 1, 2 …
  torch::Tensor diagonal;      // [K] f32 of H before damping, in the weight's own order
  double damp_percent = 0;     // as used in the end
  int64_t damp_increases = 0;  // how often it was doubled for that
  int64_t dead_columns = 0;    // inputs that were always zero
};

/// Orders the columns, damps the Hessian 2 Σ x xᵀ / tokens and factors its inverse.
///   affine    group_size alone is read: what is ordered within what
///   Dead      a column whose input was always 0 is rounded to nearest, and nothing is made good
///             for it
///   throws    ValueError where the statistics are not finite or hold no token; ShapeError where
///             the Gram matrix is not square; as checked_group_size
GptqFactor factor_gptq(const LinearStatistics& statistics, const AffineOptions& affine,
                       const GptqOptions& options);

/// What became of one weight.
struct GptqReport {
  double damp_percent = 0;
  int64_t damp_increases = 0;
  int64_t dead_columns = 0;
  std::string fallback;  // why the weight was rounded to nearest instead; empty: it was not
  double error_rtn = 0;  // output_error of rounding to nearest on the same kind of grid,
  double error = 0;      // and of the result
};

struct GptqTensor {
  AffineTensor tensor;
  GptqReport report;
};

/// Rounds a weight column by column, each error made good by the columns that are still to come.
///   weight      [N, K] f32, CPU or CUDA; not changed
///   statistics  of its inputs, on the same device
///   factor      of these statistics and options
///   returns     group_of is set under options.desc_act with more than one group
///   Fallback    rounding to nearest, with the reason in the report: where the Hessian has no
///               factor, a grid leaves its type, or the error did not become smaller
///   throws      as quantize_affine; ShapeError where the sizes do not fit
///   Source      Frantar et al., GPTQ, arXiv:2210.17323, algorithm 1; grids: docs/numerics.md
GptqTensor quantize_gptq(const torch::Tensor& weight, const LinearStatistics& statistics,
                         const GptqFactor& factor, const AffineOptions& affine,
                         const GptqOptions& options);

/// The same for a weight whose inputs no other weight reads.
GptqTensor quantize_gptq(const torch::Tensor& weight, const LinearStatistics& statistics,
                         const AffineOptions& affine, const GptqOptions& options);

}  // namespace qlora::quant
