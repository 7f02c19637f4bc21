// Matrices whose rows lie one after the other: NF4, FP4, and the program's own packed form.
#include <cmath>
#include <type_traits>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/sum.cuh"
#include "quant/affine_math.h"
#include "quant/device_float.cuh"
#include "quant/gemv_backend.h"
#include "quant/runs.cuh"
#include "quant/word_math.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;
using qlora::cuda::kWarpSize;
using qlora::cuda::warp_sum;

constexpr int kWarps = 4;       // of a block: small blocks, so that few rows fill a device
constexpr int kRowsOfWarp = 2;  // they share the loads of x
constexpr int kMostTokens = 4;  // that share the loads of a weight

/// What a piece of 16 bytes of codes is multiplied with in the end, and its zero point.
struct PieceGrid {
  float scale;
  float centre;
};

/// A piece whose runs of eight codes begin with number `turn`. Lanes begin with different runs, so
/// that what they load of x at a time lies in different banks of the cache.
template <int Runs>
__device__ Words<4> turned(const Words<4>& p, int turn) {
  static_assert(Runs == 2 || Runs == 4);
  Words<4> t = p;
  if (Runs == 4 && (turn & 1) != 0) t = {{p.at[1], p.at[2], p.at[3], p.at[0]}};
  const bool halves = Runs == 4 ? (turn & 2) != 0 : turn != 0;
  return halves ? Words<4>{{t.at[2], t.at[3], t.at[0], t.at[1]}} : t;
}

/// NF4 and FP4: 32 codes a piece, the first of a byte in its high nibble.
struct Nf4Rows {
  static constexpr int kPiece = 32;
  Nf4GemvArgs a;
  Quotient blocks;

  __device__ void fill(LevelTable& table) const { table.fill(a.type); }
  __device__ const uint8_t* codes(int64_t row, int64_t k) const {
    return a.codes + (row * a.cols + k) / 2;
  }
  __device__ PieceGrid grid(int64_t row, int64_t k) const {
    return {nf4_scale(a.scales, blocks.of(row * a.cols + k)), 0};
  }
  __device__ void decode(const Words<4>& piece, int run, PieceGrid, const LevelTable& table,
                         int64_t, int64_t, float (&v)[kRun]) const {
    table.decode(piece.at[run], v);
  }
  __device__ float value(int64_t row, int64_t k) const {
    const int64_t i = row * a.cols + k;
    return four_bit_level(a.type, four_bit_at(a.codes, i)) * nf4_scale(a.scales, blocks.of(i));
  }
};

/// Affine codes of 4 bits (32 a piece, the even column in the low nibble) or 8 bits (16 a piece).
/// Ordered: groups that are no runs of columns; the scale is then in the decoded number.
template <int Bits, bool Ordered>
struct AffineRows {
  static constexpr int kPiece = 128 / Bits;
  PackedAffineArgs a;
  Quotient groups;

  __device__ void fill(LevelTable&) const {}
  __device__ const uint8_t* codes(int64_t row, int64_t k) const {
    return a.codes + row * a.row_bytes + k * Bits / 8;
  }
  __device__ PieceGrid group_grid(int64_t row, int64_t group) const {
    const int64_t at = row * a.groups + group;
    return {load_number(a.scale_kind, a.scales, at), kWordCentre + static_cast<float>(a.zeros[at])};
  }
  __device__ PieceGrid grid(int64_t row, int64_t k) const {
    if constexpr (Ordered) return {1, 0};
    return group_grid(row, groups.of(k));
  }
  __device__ void decode(const Words<4>& piece, int run, PieceGrid grid, const LevelTable&,
                         int64_t row, int64_t k, float (&v)[kRun]) const {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const int bit = (run * kRun + i) * Bits;
      const uint32_t code = (piece.at[bit / 32] >> (bit % 32)) & ((1u << Bits) - 1);
      const float raised = raised_code(code);
      if constexpr (Ordered) {
        const PieceGrid own = group_grid(row, a.group_of[k + i]);
        v[i] = own.scale * (raised - own.centre);
      } else {
        v[i] = raised - grid.centre;
      }
    }
  }
  __device__ float value(int64_t row, int64_t k) const {
    const PieceGrid own = group_grid(row, a.group_of != nullptr ? a.group_of[k] : groups.of(k));
    const uint8_t code = packed_code(a.codes + row * a.row_bytes, k, a.two_a_byte);
    return own.scale * (static_cast<float>(code) - (own.centre - kWordCentre));
  }
};

/// y[t, n] = Σ_k w[n, k]·x[t, k]
///   Shapes    codes [N, K] of Rows, x [T, K] X, y [T, N] X
///   Launch    a warp per two rows, four warps a block; grid.y: tiles of Tokens tokens. A lane
///   reads
///             16 bytes of codes of each row; x and scales come from the cache
///   Requires  K a multiple of a piece; codes of a row, and x, start at multiples of 16 B; a piece
///             lies in one block of NF4, in one group of a matrix that is not Ordered
///   Numerics  bounded with gemv_roundings
template <class Rows, class X, int Tokens>
__global__ void __launch_bounds__(kWarps* kWarpSize, Tokens == 1 ? 6 : 3)
    gemv_rows_kernel(Rows w, int64_t rows, int64_t cols, const X* x, X* y, int64_t tokens) {
  __shared__ LevelTable table;
  w.fill(table);
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize;
  const int64_t first = warp * kRowsOfWarp, token = int64_t{blockIdx.y} * Tokens;
  if (first >= rows) return;  // the whole warp
  constexpr int kRuns = Rows::kPiece / kRun;
  const int turn = lane / (64 / Rows::kPiece) % kRuns;  // 64 numbers of 16 bits: all banks
  float sum[kRowsOfWarp][Tokens] = {};
  // The next pieces and their scales are on their way while these are multiplied.
  constexpr int64_t kStride = kWarpSize * Rows::kPiece;
  Words<4> next[kRowsOfWarp] = {};
  PieceGrid next_grid[kRowsOfWarp] = {};
  const auto fetch = [&](int64_t k) {
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {  // past the end: the last row again
      const int64_t row = first + r < rows ? first + r : rows - 1;
      next[r] = load_words<4>(w.codes(row, k));
      next_grid[r] = w.grid(row, k);
    }
  };
  if (lane * Rows::kPiece < cols) fetch(lane * Rows::kPiece);
  for (int64_t k = lane * Rows::kPiece; k < cols; k += kStride) {
    Words<4> piece[kRowsOfWarp];
    PieceGrid grid[kRowsOfWarp];
    float part[kRowsOfWarp][Tokens] = {};
#pragma unroll
    for (int r = 0; r < kRowsOfWarp; ++r) {
      piece[r] = turned<kRuns>(next[r], turn);
      grid[r] = next_grid[r];
    }
    if (k + kStride < cols) fetch(k + kStride);
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const int64_t at = k + (run + turn) % kRuns * kRun;
      float xs[Tokens][kRun];
      for (int t = 0; t < Tokens; ++t) {
        const int64_t from = token + t < tokens ? token + t : tokens - 1;
        load_run(x + from * cols + at, kRun, true, xs[t]);
      }
#pragma unroll
      for (int r = 0; r < kRowsOfWarp; ++r) {
        const int64_t row = first + r < rows ? first + r : rows - 1;
        float v[kRun];
        w.decode(piece[r], run, grid[r], table, row, at, v);
        for (int t = 0; t < Tokens; ++t) {
          for (int i = 0; i < kRun; ++i) part[r][t] = std::fma(v[i], xs[t][i], part[r][t]);
        }
      }
    }
    for (int r = 0; r < kRowsOfWarp; ++r) {
      for (int t = 0; t < Tokens; ++t) sum[r][t] = std::fma(grid[r].scale, part[r][t], sum[r][t]);
    }
  }
  for (int r = 0; r < kRowsOfWarp; ++r) {
    for (int t = 0; t < Tokens; ++t) {
      const float all = warp_sum(sum[r][t]);
      if (lane == 0 && first + r < rows && token + t < tokens) {
        narrow(all, y + (token + t) * rows + first + r);
      }
    }
  }
}

/// The same where nothing is aligned.
///   Launch    a warp per row and token; lanes stride over the columns
template <class Rows>
__global__ void gemv_any_rows_kernel(Rows w, int64_t rows, int64_t cols, GemvVectors v) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarpSize, token = blockIdx.y;
  if (row >= rows) return;
  float sum = 0;
  for (int64_t k = lane; k < cols; k += kWarpSize) {
    sum = std::fma(w.value(row, k), load_number(v.kind, v.x, token * cols + k), sum);
  }
  sum = warp_sum(sum);
  if (lane == 0) store_number(v.kind, sum, v.y, token * rows + row);
}

constexpr int kThreads = kWarps * kWarpSize;

template <class Rows>
void launch_any(const Rows& w, int64_t rows, int64_t cols, const GemvVectors& v,
                cudaStream_t stream) {
  const dim3 grid(qlora::cuda::grid_size(rows, kWarps), qlora::cuda::grid_rows(v.tokens, 1));
  gemv_any_rows_kernel<<<grid, kThreads, 0, stream>>>(w, rows, cols, v);
  check(cudaGetLastError());
}

template <class Rows>
void launch_wide(const Rows& w, int64_t rows, int64_t cols, const GemvVectors& v,
                 cudaStream_t stream) {
  const unsigned blocks = qlora::cuda::grid_size(rows, kWarps * kRowsOfWarp);
  with_kind(v.kind, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    const auto x = static_cast<const X*>(v.x);
    const auto y = static_cast<X*>(v.y);
    if (v.tokens == 1) {
      gemv_rows_kernel<Rows, X, 1><<<blocks, kThreads, 0, stream>>>(w, rows, cols, x, y, 1);
    } else {
      const dim3 grid(blocks, qlora::cuda::grid_rows(v.tokens, kMostTokens));
      gemv_rows_kernel<Rows, X, kMostTokens>
          <<<grid, kThreads, 0, stream>>>(w, rows, cols, x, y, v.tokens);
    }
  });
  check(cudaGetLastError());
}

template <int Bits>
void launch_packed(const PackedGemvArgs& a) {
  using Runs = AffineRows<Bits, false>;
  const PackedAffineArgs& w = a.weight;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const Quotient groups(w.group_of == nullptr ? w.group_size : 1);
  const bool wide = w.cols % Runs::kPiece == 0 && w.row_bytes % 16 == 0 &&
                    is_aligned(w.codes, 16) && is_aligned(a.vectors.x, 16);
  if (wide && w.group_of != nullptr) {
    launch_wide(AffineRows<Bits, true>{w, groups}, w.rows, w.cols, a.vectors, stream);
  } else if (wide && w.group_size % Runs::kPiece == 0) {
    launch_wide(Runs{w, groups}, w.rows, w.cols, a.vectors, stream);
  } else {
    launch_any(Runs{w, groups}, w.rows, w.cols, a.vectors, stream);
  }
}

}  // namespace

void cuda::gemv_nf4(const Nf4GemvArgs& a) {
  if (a.rows <= 0 || a.vectors.tokens <= 0) return;
  constexpr int kPiece = Nf4Rows::kPiece;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  if (a.cols % kPiece == 0 && a.block_size % kPiece == 0 && is_aligned(a.codes, 16) &&
      is_aligned(a.vectors.x, 16)) {
    launch_wide(Nf4Rows{a, Quotient(a.block_size)}, a.rows, a.cols, a.vectors, stream);
  } else {
    launch_any(Nf4Rows{a, Quotient(a.block_size)}, a.rows, a.cols, a.vectors, stream);
  }
}

void cuda::gemv_packed(const PackedGemvArgs& a) {
  if (a.weight.rows <= 0 || a.vectors.tokens <= 0) return;
  if (a.weight.two_a_byte) {
    launch_packed<4>(a);
  } else {
    launch_packed<8>(a);
  }
}

}  // namespace qlora::quant
