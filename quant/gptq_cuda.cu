#include <cmath>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/affine_math.h"
#include "quant/cuda_lowest.cuh"
#include "quant/gptq_backend.h"
#include "quant/reach.cuh"

namespace qlora::quant {
namespace {

using qlora::cuda::check;
using qlora::cuda::kWarpSize;

constexpr int kWarps = 4;  // of a block, each with a row of the weight
constexpr int kThreads = kWarps * kWarpSize;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ int lane_number() {
  return static_cast<int>(threadIdx.x) % kWarpSize;
}

/// w[j] -= e · u[j] for columns [begin, end). The lanes share the columns; all see the result.
__device__ void subtract(float e, const float* u, int64_t begin, int64_t end, float* w) {
  for (int64_t j = begin + lane_number(); j < end; j += kWarpSize) w[j] -= e * u[j];
  __syncwarp();
}

/// A row in work.
struct Row {
  const float* factor;  // row of U of the row's first column, at that column
  int64_t cols;         // between rows of U
  float* w;             // [columns], shared by the lanes
  float* scratch;       // as large
};

/// Squared error of `count` columns on a grid, each weighted; in the order of columns, by one lane.
__device__ float squared_error(const float* w, const float* weight, int64_t count, AffineGrid grid,
                               int64_t bits) {
  float sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    const float e = w[k] - affine_value(affine_code(w[k], grid, bits), grid);
    sum += e * e * weight[k];
  }
  return sum;
}

/// Squared error that GPTQ ends with in columns [first, first + count) on a grid, by the whole
/// warp.
__device__ float gptq_error(const Row& row, int64_t first, int64_t count, AffineGrid grid,
                            int64_t bits) {
  for (int64_t k = lane_number(); k < count; k += kWarpSize) row.scratch[k] = row.w[first + k];
  __syncwarp();
  float sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    const float* const u = row.factor + (first + k) * row.cols + first;
    const float x = row.scratch[k];
    const float e = (x - affine_value(affine_code(x, grid, bits), grid)) / u[k];
    sum += e * e;
    subtract(e, u, k + 1, count, row.scratch);
  }
  return sum;
}

/// Grid of the group in columns [first, first + count) of a row, in all lanes. False where one that
/// is tried is not finite.
__device__ bool fit_row(const Row& row, int64_t first, int64_t count, const GridSearch& s,
                        const float* column_weight, AffineGrid& best) {
  const float* const w = row.w + first;
  Reach reach;
  for (int64_t k = lane_number(); k < count; k += kWarpSize) reach.add(w[k]);
  reach.below = qlora::cuda::warp_max(reach.below);
  reach.above = qlora::cuda::warp_max(reach.above);
  const int64_t steps = s.kind == ScaleSearch::kMinMax ? 1 : s.steps;
  float least = 0;
  for (int64_t base = 0; base < steps; base += kWarpSize) {  // a lane has a candidate of its own
    const int64_t own = base + lane_number() < steps ? base + lane_number() : steps - 1;
    const float part = kept_range(own, steps, s.least);
    const AffineGrid grid = affine_grid(reach.low() * part, reach.high() * part, s.affine);
    const bool is_finite = is_finite_bits(float_bits(grid.scale)) && reach.is_finite();
    if (__all_sync(kAllLanes, is_finite) == 0) return false;
    float error = 0;
    if (s.kind == ScaleSearch::kMse && steps > 1) {
      error = squared_error(w, column_weight, count, grid, s.affine.bits);
    }
    for (int64_t step = base; step < steps && step < base + kWarpSize; ++step) {
      const int from = static_cast<int>(step - base);
      const AffineGrid tried{__shfl_sync(kAllLanes, grid.scale, from),
                             __shfl_sync(kAllLanes, grid.zero, from)};
      float now = __shfl_sync(kAllLanes, error, from);
      if (s.kind == ScaleSearch::kGptq && steps > 1) {
        now = gptq_error(row, first, count, tried, s.affine.bits);
      }
      if (step > 0 && !(now < least)) continue;
      least = now;
      best = tried;
    }
  }
  __syncwarp();  // all lanes have read w before one writes to it: a shuffle orders no memory
  return true;
}

/// Columns [begin, end) of GPTQ, as GptqBlockArgs defines it.
///   Launch    a warp per row, four a block. The row's columns lie in shared memory (in
///   args.scratch
///             where they are more than 1,024), the lanes share the columns right of the one that
///             is rounded; U comes from the cache
///   Numerics  bit-exact with cpu::gptq_block, for rows whose grids are finite: each product and
///             each difference is rounded, sums run over columns in order
__global__ void __launch_bounds__(kThreads, 8)
    gptq_block_kernel(GptqBlockArgs a, int64_t columns, bool in_shared) {
  extern __shared__ float rows_of_block[];
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize, lane = lane_number();
  const int64_t r = int64_t{blockIdx.x} * kWarps + warp, width = a.end - a.begin;
  if (r >= a.rows) return;  // the whole warp
  float* const w = in_shared ? rows_of_block + 2 * warp * columns : a.scratch + 2 * r * columns;
  const Row row{a.factor + a.begin * a.cols + a.begin, a.cols, w, w + columns};
  for (int64_t k = lane; k < columns; k += kWarpSize) w[k] = a.weight[r * a.cols + a.begin + k];
  __syncwarp();
  AffineGrid grid;
  int64_t group = -1;
  for (int64_t i = 0; i < width; ++i) {
    const int64_t k = a.begin + i;
    if (a.fits && k % a.group_size == 0) {
      const float* const weights =
          a.search.column_weight != nullptr ? a.search.column_weight + k : nullptr;
      if (!fit_row(row, i, a.group_size, a.search, weights, grid)) {
        if (lane == 0) lower_to(a.first_bad_row, r);
        return;
      }
      if (lane == 0) {
        a.scales[r * a.groups + a.column_group[k]] = grid.scale;
        a.zeros[r * a.groups + a.column_group[k]] = static_cast<uint8_t>(grid.zero);
      }
    } else if (a.column_group[k] != group) {
      const int64_t at = r * a.groups + a.column_group[k];
      grid = {a.scales[at], a.zeros[at]};
    }
    group = a.column_group[k];
    const float* const u = row.factor + i * a.cols;
    const uint8_t code = affine_code(w[i], grid, a.search.affine.bits);
    const float e = (w[i] - affine_value(code, grid)) / u[i];
    if (lane == 0) {
      a.codes[r * a.cols + k] = code;
      a.errors[r * width + i] = e;
    }
    subtract(e, u, i + 1, width, w);
  }
}

/// Grids of runs of columns, each the best of its candidates.
///   Launch    a warp per row and group, four a block
///   Numerics  bit-exact with cpu::search_grids, for rows whose grids are finite
__global__ void __launch_bounds__(kThreads, 8) search_grids_kernel(GridSearchArgs a) {
  const int64_t groups = a.cols / a.group_size;
  const int64_t at = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  if (at >= a.rows * groups) return;  // the whole warp
  const int64_t r = at / groups, first = at % groups * a.group_size;
  // fit_row only reads w; the search for kGptq, which has no U here, is not of this function.
  const Row row{nullptr, a.cols, const_cast<float*>(a.weight) + r * a.cols, nullptr};
  const float* const weights =
      a.search.column_weight != nullptr ? a.search.column_weight + first : nullptr;
  AffineGrid grid;
  const bool fits = fit_row(row, first, a.group_size, a.search, weights, grid);
  if (lane_number() != 0) return;
  if (!fits) return lower_to(a.first_bad_row, r);
  a.scales[at] = grid.scale;
  a.zeros[at] = static_cast<uint8_t>(grid.zero);
}

}  // namespace

void cuda::gptq_block(const GptqBlockArgs& a) {
  if (a.rows <= 0) return;
  const int64_t columns = gptq_columns(a);
  const bool in_shared = columns <= kGptqSharedColumns;
  const size_t shared_bytes =
      in_shared ? static_cast<size_t>(2 * kWarps * columns) * sizeof(float) : 0;
  gptq_block_kernel<<<qlora::cuda::grid_size(a.rows, kWarps), kThreads, shared_bytes,
                      static_cast<cudaStream_t>(a.stream)>>>(a, columns, in_shared);
  check(cudaGetLastError());
}

void cuda::search_grids(const GridSearchArgs& a) {
  const int64_t count = a.rows * (a.cols / a.group_size);
  if (count <= 0) return;
  search_grids_kernel<<<qlora::cuda::grid_size(count, kWarps), kThreads, 0,
                        static_cast<cudaStream_t>(a.stream)>>>(a);
  check(cudaGetLastError());
}

}  // namespace qlora::quant
