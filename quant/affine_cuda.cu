#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/affine_backend.h"
#include "quant/affine_math.h"
#include "quant/cuda_lowest.cuh"
#include "quant/device_float.cuh"
#include "quant/reach.cuh"

namespace qlora::quant {
namespace {

using qlora::cuda::check;
using qlora::cuda::kWarpSize;

constexpr int kThreads = 256;
constexpr int kRun = 4;                  // elements a thread takes at once
constexpr int64_t kLargestOfWarp = 512;  // a greater group is the work of a whole block

template <int Team>
__device__ uint32_t team_max(uint32_t value) {
  if constexpr (Team == kWarpSize) {
    return qlora::cuda::warp_max(value);
  } else {
    return qlora::cuda::block_max<Team>(value);
  }
}

__device__ void store_codes(const uint8_t (&codes)[kRun], int64_t left, bool wide, uint8_t* to) {
  if (wide && left >= kRun) {
    *reinterpret_cast<uint32_t*>(to) =
        codes[0] | codes[1] << 8 | codes[2] << 16 | static_cast<uint32_t>(codes[3]) << 24;
    return;
  }
  for (int k = 0; k < kRun && k < left; ++k) to[k] = codes[k];
}

/// Rounds `left` elements (at most 4) at `at` to a grid; codes and values may be null.
__device__ void round_run(const AffineArgs& a, int64_t at, int64_t left, bool wide,
                          const float (&w)[kRun], const AffineGrid (&grids)[kRun]) {
  uint8_t codes[kRun];
  float values[kRun];
  for (int k = 0; k < kRun; ++k) {
    codes[k] = affine_code(w[k], grids[k], a.options.bits);
    values[k] = affine_value(codes[k], grids[k]);
  }
  if (a.codes != nullptr) store_codes(codes, left, wide, a.codes + at);
  if (a.values != nullptr) store_run(values, left, wide, a.values + at);
}

/// Grid of every group of columns, and its elements rounded to it (codes, values: either or both
/// may be null, and scales, zeros too).
///   Launch    a warp per group of at most 512 columns, eight in a block of 256 threads; else a
///             block per group. Reads 4 B (the second time from the cache) and writes 1 B of codes,
///             4 B of values an element
///   Requires  wide: group_size a multiple of 4, arrays aligned to 16 B (codes 4 B)
///   Numerics  bit-exact with cpu::affine_fit_and_round, for rows that are finite
template <int Team>
__global__ void affine_fit_kernel(AffineArgs a, bool wide) {
  const int64_t teams = kThreads / Team;
  const int64_t group = int64_t{blockIdx.x} * teams + threadIdx.x / Team;
  if (group >= a.rows * a.groups) return;  // the whole team
  const int lane = static_cast<int>(threadIdx.x) % Team;
  const int64_t begin = group * a.group_size;  // groups are runs that cover every row
  Reach reach;
  for (int64_t i = kRun * lane; i < a.group_size; i += kRun * Team) {
    float w[kRun];
    load_run(a.weight + begin + i, a.group_size - i, wide, w);
    for (int k = 0; k < kRun; ++k) reach.add(w[k]);  // what is beyond the end is 0
  }
  reach.below = team_max<Team>(reach.below);
  reach.above = team_max<Team>(reach.above);
  AffineGrid grid;
  bool fits = reach.is_finite();
  if (fits) {
    grid = affine_grid(reach.low(), reach.high(), a.options);
    fits = is_finite_bits(float_bits(grid.scale));
  }
  if (!fits) {
    if (lane == 0) lower_to(a.first_bad_row, group / a.groups);
    return;
  }
  if (lane == 0 && a.scales != nullptr) a.scales[group] = grid.scale;
  if (lane == 0 && a.zeros != nullptr) a.zeros[group] = static_cast<uint8_t>(grid.zero);
  if (a.codes == nullptr && a.values == nullptr) return;
  const AffineGrid grids[kRun] = {grid, grid, grid, grid};
  for (int64_t i = kRun * lane; i < a.group_size; i += kRun * Team) {
    float w[kRun];
    load_run(a.weight + begin + i, a.group_size - i, wide, w);
    round_run(a, begin + i, a.group_size - i, wide, w, grids);
  }
}

/// Grid of column `col` of a row.
__device__ AffineGrid grid_of(const AffineArgs& a, int64_t row, int64_t col) {
  const int64_t group = a.group_of != nullptr ? a.group_of[col] : col / a.group_size;
  return {a.scales[row * a.groups + group], a.zeros[row * a.groups + group]};
}

/// codes and values (either may be null) of elements on grids that are given, or, where Decode,
/// values from codes.
///   Launch    one thread per 4 elements of a row, 256 per block; neighbours share a grid
///   Requires  wide: cols a multiple of 4, arrays aligned to 16 B (codes 4 B)
///   Numerics  bit-exact with cpu::affine_round, cpu::affine_values
template <bool Decode>
__global__ void affine_round_kernel(AffineArgs a, bool wide) {
  const int64_t runs = (a.cols + kRun - 1) / kRun;
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread >= a.rows * runs) return;
  const int64_t row = thread / runs, col = thread % runs * kRun, at = row * a.cols + col;
  const int64_t left = a.cols - col;
  AffineGrid grids[kRun];
  for (int k = 0; k < kRun && k < left; ++k) grids[k] = grid_of(a, row, col + k);
  float w[kRun];
  if constexpr (Decode) {
    for (int k = 0; k < kRun; ++k) w[k] = k < left ? affine_value(a.codes[at + k], grids[k]) : 0;
    store_run(w, left, wide, a.values + at);
  } else {
    load_run(a.weight + at, left, wide, w);
    round_run(a, at, left, wide, w, grids);
  }
}

bool is_wide(const AffineArgs& a, int64_t run) {
  return run % kRun == 0 && is_aligned(a.weight, 16) && is_aligned(a.values, 16) &&
         is_aligned(a.codes, 4);
}

void fit(const AffineArgs& a) {
  const int64_t groups = a.rows * a.groups;
  if (groups <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const bool wide = is_wide(a, a.group_size);
  if (a.group_size <= kLargestOfWarp) {
    affine_fit_kernel<kWarpSize>
        <<<qlora::cuda::grid_size(groups, kThreads / kWarpSize), kThreads, 0, stream>>>(a, wide);
  } else {
    affine_fit_kernel<kThreads>
        <<<qlora::cuda::grid_size(groups, 1), kThreads, 0, stream>>>(a, wide);
  }
  check(cudaGetLastError());
}

template <bool Decode>
void round(const AffineArgs& a) {
  const int64_t count = a.rows * ((a.cols + kRun - 1) / kRun);
  if (count <= 0) return;
  affine_round_kernel<Decode><<<qlora::cuda::grid_size(count, kThreads), kThreads, 0,
                                static_cast<cudaStream_t>(a.stream)>>>(a, is_wide(a, a.cols));
  check(cudaGetLastError());
}

}  // namespace

void cuda::affine_grids(const AffineArgs& a) {
  AffineArgs grids = a;
  grids.codes = nullptr;
  grids.values = nullptr;
  fit(grids);
}

void cuda::affine_fit_and_round(const AffineArgs& a) {
  fit(a);
}

void cuda::affine_round(const AffineArgs& a) {
  round<false>(a);
}

void cuda::affine_values(const AffineArgs& a) {
  round<true>(a);
}

}  // namespace qlora::quant
