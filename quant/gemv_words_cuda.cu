// Matrices in the words of a checkpoint, columns down and rows across: GPTQ and AWQ.
#include <cmath>
#include <type_traits>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/device_float.cuh"
#include "quant/gemv_backend.h"
#include "quant/runs.cuh"
#include "quant/word_math.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;
using qlora::cuda::kWarpSize;

constexpr int kWarps = 8;                     // of a block; each sums a run of columns
constexpr int kThreads = kWarps * kWarpSize;  //
constexpr int kMostTokens = 4;                // that share the loads of a weight
constexpr int kAheadOfGptq = 2;               // loads of four words that a lane has on their way
constexpr int kRows = 4;                      // GPTQ: neighbours of a lane, 16 bytes of words
constexpr int kWidthOfGptq = kRows * kWarpSize;
constexpr int kWordsOfAwqBlock = 8;                     // 64 rows: whole sectors of 32 bytes
constexpr int kAwqStep = kWarpSize / kWordsOfAwqBlock;  // columns that a warp takes at once

// A code is not shifted down to where it would be a small integer: in its place p of a half word it
// stands for 16^p times itself, which the other factor makes good. Powers of two round nothing.
constexpr int kPlaces = 4;

__device__ constexpr float place_inverse(int place) {
  return 1.0f / static_cast<float>(1 << (4 * place));
}
__device__ float placed_centre(float zero, int place) {
  return kWordCentre + static_cast<float>(1 << (4 * place)) * zero;
}
/// 16^place · (code − zero), exactly.
__device__ float placed_code(uint32_t half, int place, float centre) {
  return raised_code(half & (15u << (4 * place))) - centre;
}

/// Runs of `count` items for `parts`: [begin, end) is number `part`.
struct Run {
  int64_t begin, end;

  __device__ Run(int64_t count, int64_t part, int64_t parts)
      : begin(count * part / parts), end(count * (part + 1) / parts) {}
};

/// Sums of all warps become y, or one part of it.
///   sums      [kWarps, Tokens, width] in shared memory
template <int Tokens, class X>
__device__ void join_warps(const WordGemvArgs& a, const float* sums, int width, int64_t first_row,
                           int64_t token, X* y) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < Tokens * width; i += kThreads) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += sums[w * Tokens * width + i];
    const int64_t row = first_row + i % width, t = token + i / width;
    if (row >= a.rows || t >= a.vectors.tokens) continue;
    if (a.splits == 1) {
      narrow(sum, y + t * a.rows + row);
    } else {
      a.partial[(blockIdx.y * a.vectors.tokens + t) * a.rows + row] = sum;
    }
  }
}

/// y[t, n] = Σ_k w[n, k]·x[t, k] of a matrix in GPTQ's words.
///   Shapes    words [K / 8, N], zeros [groups, N / 8], scales [groups, N], x [T, K], y [T, N]
///   Launch    256 threads per 128 rows and split (grid.y) and tile of Tokens tokens (grid.z): a
///             lane takes four rows, a warp a run of columns. A warp's words are 512 bytes side by
///             side; x is the same for all lanes and comes from the cache
///   Requires  Ordered, or groups of a multiple of 8 columns; wide_rows: words start at 16 B
///   Numerics  bounded with gemv_roundings; the same on every run
template <bool Ordered, class X, int Tokens>
__global__ void __launch_bounds__(kThreads, Tokens == 1 ? 3 : 2)
    gemv_gptq_kernel(WordGemvArgs a, Quotient groups, const X* x, X* y, bool wide, bool wide_rows) {
  __shared__ float sums[kWarps * Tokens * kWidthOfGptq];
  constexpr bool kHeld = !Ordered && Tokens == 1;  // centres in registers, where there are enough
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t first_row = int64_t{blockIdx.x} * kWidthOfGptq, own = first_row + kRows * lane;
  const int64_t n = own < a.rows ? own : a.rows - kRows;  // past the end: the last rows again
  const int64_t token = int64_t{blockIdx.z} * Tokens, tokens = a.vectors.tokens;
  const Run run(a.cols / 8, int64_t{blockIdx.y} * kWarps + warp, a.splits * kWarps);
  float sum[kRows][Tokens] = {}, part[kRows][Tokens] = {};
  float scale[kRows] = {}, zero[kRows] = {}, centre[kRows][kPlaces] = {};
  int64_t group = -1;
  const auto take_group = [&](int64_t g) {
    const uint32_t zeros = zero_word(a.zeros[g * (a.rows / 8) + n / 8], a.zeros_less_one);
    for (int r = 0; r < kRows; ++r) {
      scale[r] = load_number(a.scale_kind, a.scales, g * a.rows + n + r);
      zero[r] = static_cast<float>((zeros >> gptq_shift(n + r)) & 15u);
      for (int p = 0; kHeld && p < kPlaces; ++p) centre[r][p] = placed_centre(zero[r], p);
    }
    group = g;
  };
  const auto close_group = [&] {
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < Tokens; ++t) {
        sum[r][t] = std::fma(scale[r], part[r][t], sum[r][t]);
        part[r][t] = 0;
      }
    }
  };
  for (int64_t at = run.begin; at < run.end; at += kAheadOfGptq) {
    Words<kRows> words[kAheadOfGptq] = {};
#pragma unroll
    for (int j = 0; j < kAheadOfGptq; ++j) {
      const uint32_t* const from = a.words + (at + j) * a.rows + n;
      if (at + j >= run.end) continue;
      if (wide_rows) {
        words[j] = load_words<kRows>(from);
      } else {
        for (int r = 0; r < kRows; ++r) words[j].at[r] = from[r];
      }
    }
#pragma unroll
    for (int j = 0; j < kAheadOfGptq; ++j) {
      if (at + j >= run.end) break;
      const int64_t k = 8 * (at + j);
      if (const int64_t g = groups.of(k); !Ordered && g != group) {
        close_group();
        take_group(g);
      }
      float xs[Tokens][8];
      for (int t = 0; t < Tokens; ++t) {
        const int64_t from = token + t < tokens ? token + t : tokens - 1;
        load_run(x + from * a.cols + k, 8, wide, xs[t]);
        for (int i = 0; i < 8; ++i) xs[t][i] *= place_inverse(i % kPlaces);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if constexpr (Ordered) {
          const int64_t g = a.group_of != nullptr ? a.group_of[k + i] : groups.of(k + i);
          if (g != group) {
            close_group();
            take_group(g);
          }
        }
        for (int r = 0; r < kRows; ++r) {
          const uint32_t half = i < kPlaces ? words[j].at[r] : words[j].at[r] >> 16;
          const float middle = kHeld ? centre[r][i % kPlaces] : placed_centre(zero[r], i % kPlaces);
          const float v = placed_code(half, i % kPlaces, middle);
          for (int t = 0; t < Tokens; ++t) part[r][t] = std::fma(v, xs[t][i], part[r][t]);
        }
      }
    }
  }
  close_group();
  for (int r = 0; r < kRows; ++r) {
    for (int t = 0; t < Tokens; ++t) {
      sums[(warp * Tokens + t) * kWidthOfGptq + kRows * lane + r] = sum[r][t];
    }
  }
  join_warps<Tokens>(a, sums, kWidthOfGptq, first_row, token, y);
}

/// y[t, n] = Σ_k w[n, k]·x[t, k] of a matrix in AWQ's words.
///   Shapes    words [K, N / 8], zeros [groups, N / 8], scales [groups, N], x [T, K], y [T, N]
///   Launch    256 threads per 64 rows and split (grid.y) and tile of Tokens tokens (grid.z): a
///             lane takes a word of eight rows, a warp four columns at once of its run of columns
///   Numerics  bounded with gemv_roundings; the same on every run
template <class X, int Tokens>
__global__ void __launch_bounds__(kThreads, Tokens == 1 ? 3 : 2)
    gemv_awq_kernel(WordGemvArgs a, Quotient groups, const X* x, X* y) {
  constexpr int kWidth = 8 * kWordsOfAwqBlock;
  constexpr int kAhead = Tokens == 1 ? 8 : 4;  // loads of a word
  __shared__ float sums[kWarps * Tokens * kWidth];
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int64_t words_across = a.rows / 8, first_word = int64_t{blockIdx.x} * kWordsOfAwqBlock;
  const int64_t column_word = first_word + lane % kWordsOfAwqBlock;
  const int64_t c = column_word < words_across ? column_word : words_across - 1;
  const int64_t token = int64_t{blockIdx.z} * Tokens, tokens = a.vectors.tokens;
  const Run run(a.cols, int64_t{blockIdx.y} * kWarps + warp, a.splits * kWarps);
  // part and centre are those of a row times 16^place, scale of a row times 16^-place.
  float sum[8][Tokens] = {}, part[8][Tokens] = {}, scale[8] = {}, centre[8] = {};
  int64_t group = -1;
  const auto close_group = [&] {
    for (int i = 0; i < 8; ++i) {
      for (int t = 0; t < Tokens; ++t) {
        sum[i][t] = std::fma(scale[i], part[i][t], sum[i][t]);
        part[i][t] = 0;
      }
    }
  };
  const auto take_group = [&](int64_t g) {
    const uint32_t zeros = zero_word(a.zeros[g * words_across + c], a.zeros_less_one);
    for (int i = 0; i < 8; ++i) {
      const int place = awq_nibble(i) % kPlaces;
      const float zero = static_cast<float>((zeros >> awq_shift(i)) & 15u);
      scale[i] = load_number(a.scale_kind, a.scales, g * a.rows + 8 * c + i) * place_inverse(place);
      centre[i] = placed_centre(zero, place);
    }
    group = g;
  };
  for (int64_t at = run.begin + lane / kWordsOfAwqBlock; at < run.end; at += kAhead * kAwqStep) {
    uint32_t words[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t k = at + j * kAwqStep;
      words[j] = k < run.end ? a.words[k * words_across + c] : 0;
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int64_t k = at + j * kAwqStep;
      if (k >= run.end) break;
      const int64_t g = a.group_of != nullptr ? a.group_of[k] : groups.of(k);
      if (g != group) {
        close_group();
        take_group(g);
      }
      const uint32_t low = words[j], high = words[j] >> 16;
      for (int t = 0; t < Tokens; ++t) {
        const int64_t from = token + t < tokens ? token + t : tokens - 1;
        const float xk = widened(x[from * a.cols + k]);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int place = awq_nibble(i);
          const float v = placed_code(place < kPlaces ? low : high, place % kPlaces, centre[i]);
          part[i][t] = std::fma(v, xk, part[i][t]);
        }
      }
    }
  }
  close_group();
  for (int i = 0; i < 8; ++i) {
    for (int t = 0; t < Tokens; ++t) {  // the four columns of the warp
      float all = sum[i][t];
      for (int stride = kWordsOfAwqBlock; stride < kWarpSize; stride *= 2) {
        all += __shfl_xor_sync(0xFFFFFFFFu, all, stride);
      }
      if (lane < kWordsOfAwqBlock) sums[(warp * Tokens + t) * kWidth + 8 * lane + i] = all;
    }
  }
  join_warps<Tokens>(a, sums, kWidth, 8 * first_word, token, y);
}

/// y = the sum of all splits, in their order.
///   Launch    one thread per number of y, 256 per block
__global__ void join_splits_kernel(WordGemvArgs a) {
  const int64_t count = a.vectors.tokens * a.rows;
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0;
  for (int64_t s = 0; s < a.splits; ++s) sum += a.partial[s * count + i];
  store_number(a.vectors.kind, sum, a.vectors.y, i);
}

template <int Tokens, class X>
void launch_words(const WordGemvArgs& a, const X* x, X* y) {
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const unsigned splits = qlora::cuda::grid_rows(a.splits, 1);
  const unsigned tokens = qlora::cuda::grid_rows(a.vectors.tokens, Tokens);
  const Quotient groups(a.group_of == nullptr ? a.group_size : 1);
  if (a.layout == WordLayout::kAwq) {
    const dim3 grid(qlora::cuda::grid_size(a.rows, 8 * kWordsOfAwqBlock), splits, tokens);
    gemv_awq_kernel<X, Tokens><<<grid, kThreads, 0, stream>>>(a, groups, x, y);
    return;
  }
  const dim3 grid(qlora::cuda::grid_size(a.rows, kWidthOfGptq), splits, tokens);
  const bool wide = rows_are_aligned<8>(x, a.cols), wide_rows = is_aligned(a.words, 16);
  if (a.group_of != nullptr || a.group_size % 8 != 0) {
    gemv_gptq_kernel<true, X, Tokens>
        <<<grid, kThreads, 0, stream>>>(a, groups, x, y, wide, wide_rows);
  } else {
    gemv_gptq_kernel<false, X, Tokens>
        <<<grid, kThreads, 0, stream>>>(a, groups, x, y, wide, wide_rows);
  }
}

}  // namespace

void cuda::gemv_words(const WordGemvArgs& a) {
  const int64_t count = a.vectors.tokens * a.rows;
  if (count <= 0) return;
  with_kind(a.vectors.kind, [&](auto* type) {
    using X = std::remove_pointer_t<decltype(type)>;
    const auto x = static_cast<const X*>(a.vectors.x);
    const auto y = static_cast<X*>(a.vectors.y);
    if (a.vectors.tokens == 1) {
      launch_words<1>(a, x, y);
    } else {
      launch_words<kMostTokens>(a, x, y);
    }
  });
  check(cudaGetLastError());
  if (a.splits == 1) return;
  constexpr int kJoinThreads = 256;
  join_splits_kernel<<<qlora::cuda::grid_size(count, kJoinThreads), kJoinThreads, 0,
                       static_cast<cudaStream_t>(a.stream)>>>(a);
  check(cudaGetLastError());
}

}  // namespace qlora::quant
