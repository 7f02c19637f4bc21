#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/affine_options.h"
#include "quant/gptq_options.h"

namespace qlora::quant {

/// Part of the range that candidate `step` of a search keeps: 1, then evenly down to `least`.
QLORA_HD float kept_range(int64_t step, int64_t steps, double least) {
  if (steps < 2) return 1;
  return static_cast<float>(1 - (1 - least) * static_cast<double>(step) /
                                    static_cast<double>(steps - 1));
}

/// How grids are found.
struct GridSearch {
  AffineOptions affine;  // group_size is not read
  ScaleSearch kind = ScaleSearch::kMinMax;
  int64_t steps = 1;
  double least = 1;
  const float* column_weight = nullptr;  // [cols], kMse: of each squared error
};

/// Columns [begin, end) of GPTQ. Columns stand in the order in which they are rounded.
///   For each column k, left to right:  q = rounded w_k,  e = (w_k - q) / U_kk,
///   w_j -= e · U_kj for j in (k, end); the caller applies the errors to the columns from `end` on.
///   Groups    where `fits`, group column_group[k] is the run of group_size columns from k on, for
///             k a multiple of it; its grid is found when k is reached. A run that is longer than
///             [begin, end) starts at `begin` where it starts in it
///   Numerics  bit-exact between instruction sets, thread counts and composed::gptq_block: each
///             product and each difference is rounded
struct GptqBlockArgs {
  const float* weight;  // [rows, cols]
  int64_t rows;
  int64_t cols;
  int64_t begin;
  int64_t end;
  const float* factor;          // U [cols, cols], upper triangular, the Cholesky factor of H⁻¹
  const int32_t* column_group;  // [cols]
  int64_t groups;
  int64_t group_size;
  bool fits;  // else scales and zeros are given
  GridSearch search;
  float* scales;             // [rows, groups]
  uint8_t* zeros;            // [rows, groups]
  uint8_t* codes;            // [rows, cols]
  float* errors;             // [rows, end - begin]
  int64_t* first_bad_row;    // lowered to the first row with a grid that is not finite
  float* scratch = nullptr;  // CUDA alone: [gptq_scratch_size]
  void* stream = nullptr;    // cudaStream_t
};

/// Columns that the work on [begin, end) reads: to the end of a group that starts at `begin` and is
/// longer.
inline int64_t gptq_columns(const GptqBlockArgs& a) {
  const bool is_longer = a.fits && a.begin % a.group_size == 0 && a.group_size > a.end - a.begin;
  return is_longer ? a.group_size : a.end - a.begin;
}

/// Columns of a row that a GPU's shared memory takes; more need scratch.
inline constexpr int64_t kGptqSharedColumns = 1024;

inline int64_t gptq_scratch_size(const GptqBlockArgs& a) {
  return gptq_columns(a) > kGptqSharedColumns ? 2 * a.rows * gptq_columns(a) : 0;
}

/// Grids of runs of columns by search (kMinMax or kMse).
struct GridSearchArgs {
  const float* weight;  // [rows, cols]
  int64_t rows;
  int64_t cols;
  int64_t group_size;  // divides cols
  GridSearch search;
  float* scales;   // [rows, cols / group_size]
  uint8_t* zeros;  // [rows, cols / group_size]
  int64_t* first_bad_row;
  void* stream = nullptr;
};

namespace cpu {
void gptq_block(const GptqBlockArgs& args);
void search_grids(const GridSearchArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void gptq_block(const GptqBlockArgs& args);
void search_grids(const GridSearchArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
