#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "quant/affine_math.h"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"
#include "quant/packed_affine_backend.h"
#include "quant/runs.cuh"
#include "quant/word_math.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;

/// Where run `r` of this thread lies in a matrix.
struct RunPlace {
  int64_t row, col;
  int64_t left;  // columns from col on
  bool is_inside;

  /// of_row    runs of a row as its size
  __device__ RunPlace(int r, int64_t rows, int64_t cols, const Quotient& of_row) {
    const int64_t run = (int64_t{blockIdx.x} * kRunsOfThread + r) * kThreads + threadIdx.x;
    row = of_row.of(run);
    col = (run - row * of_row.size) * kRun;
    left = cols - col;
    is_inside = row < rows;
  }
};

/// Eight codes of a row, of which `left` are there.
///   wide      rows start at multiples of a run's bytes
__device__ void load_codes(const PackedAffineArgs& a, int64_t row, int64_t col, int64_t left,
                           bool wide, uint32_t (&codes)[kRun]) {
  const uint8_t* const from = a.codes + row * a.row_bytes;
  if (!wide) {
    for (int k = 0; k < kRun && k < left; ++k) codes[k] = packed_code(from, col + k, a.two_a_byte);
  } else if (a.two_a_byte) {
    const uint32_t word = *reinterpret_cast<const uint32_t*>(from + col / 2);
#pragma unroll
    for (int k = 0; k < kRun; ++k) codes[k] = (word >> (4 * k)) & 15u;
  } else {
    const auto words = load_words<2>(from + col);
#pragma unroll
    for (int k = 0; k < kRun; ++k) codes[k] = (words.at[k / 4] >> (8 * (k % 4))) & 255u;
  }
}

/// out[n, k] = scale(n, g) · (code(n, k) - zero(n, g))
///   Launch    256 threads per 1,024 runs of eight columns: a thread takes four, 256 runs apart
///   Requires  wide: K, and groups where they are runs of columns, multiples of 8; rows of codes
///             start at multiples of a run's bytes, out at one of 16 B
///   Numerics  bit-exact with cpu::dequantize_packed
template <class Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_packed_kernel(PackedAffineArgs a, Quotient of_row, Quotient groups, Out* out,
                             bool wide) {
#pragma unroll
  for (int r = 0; r < kRunsOfThread; ++r) {
    const RunPlace place(r, a.rows, a.cols, of_row);
    if (!place.is_inside) return;
    const int64_t row = place.row, col = place.col, left = place.left;
    uint32_t codes[kRun];
    load_codes(a, row, col, left, wide, codes);
    const auto grid_of = [&](int64_t k) {
      const int64_t group = a.group_of != nullptr ? a.group_of[k] : groups.of(k);
      const int64_t at = row * a.groups + group;
      return AffineGrid{load_number(a.scale_kind, a.scales, at), a.zeros[at]};
    };
    AffineGrid grid = grid_of(col);
    const bool shared = wide && a.group_of == nullptr;
    float v[kRun] = {};
#pragma unroll
    for (int k = 0; k < kRun; ++k) {
      if (k >= left) break;
      if (!shared) grid = grid_of(col + k);
      v[k] = (raised_code(codes[k]) - (kWordCentre + static_cast<float>(grid.zero))) * grid.scale;
    }
    store_run(v, left, wide, out + row * a.cols + col);
  }
}

/// out[n, k] = scale(n) · fp8(codes[n, k])
///   Launch    256 threads per 1,024 runs of eight columns: a thread takes four, 256 runs apart
///   Requires  wide: K a multiple of 8, codes aligned to 8 B, out to 16 B
///   Numerics  bit-exact with cpu::dequantize_fp8
template <class Out>
__global__ void __launch_bounds__(kThreads)
    dequantize_fp8_kernel(Fp8DequantArgs a, Quotient of_row, Out* out, bool wide) {
#pragma unroll
  for (int r = 0; r < kRunsOfThread; ++r) {
    const RunPlace place(r, a.rows, a.cols, of_row);
    if (!place.is_inside) return;
    const int64_t row = place.row, col = place.col, left = place.left;
    const int64_t at = row * a.cols + col;
    uint8_t codes[kRun] = {};
    if (wide) {
      const auto words = load_words<2>(a.codes + at);
      for (int k = 0; k < kRun; ++k) {
        codes[k] = static_cast<uint8_t>(words.at[k / 4] >> (8 * (k % 4)));
      }
    } else {
      for (int k = 0; k < kRun && k < left; ++k) codes[k] = a.codes[at + k];
    }
    const float scale = a.scales[a.scale_per_row ? row : 0];
    float v[kRun];
    for (int k = 0; k < kRun; ++k) v[k] = fp8_to_float(codes[k]) * scale;
    store_run(v, left, wide, out + at);
  }
}

unsigned blocks_of(int64_t runs) {
  return qlora::cuda::grid_size(runs, kThreads * kRunsOfThread);
}

}  // namespace

void cuda::dequantize_packed(const PackedAffineArgs& a) {
  if (a.rows * a.cols <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const Quotient of_row((a.cols + kRun - 1) / kRun);
  const Quotient groups(a.group_of == nullptr ? a.group_size : 1);
  const int64_t run_bytes = a.two_a_byte ? kRun / 2 : kRun;
  const bool wide = a.cols % kRun == 0 && (a.group_of != nullptr || a.group_size % kRun == 0) &&
                    a.row_bytes % run_bytes == 0 && is_aligned(a.codes, run_bytes) &&
                    is_aligned(a.out, 16);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_packed_kernel<<<blocks_of(a.rows * of_row.size), kThreads, 0, stream>>>(
        a, of_row, groups, static_cast<decltype(type)>(a.out), wide);
  });
  check(cudaGetLastError());
}

void cuda::dequantize_fp8(const Fp8DequantArgs& a) {
  if (a.rows * a.cols <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const Quotient of_row((a.cols + kRun - 1) / kRun);
  const bool wide = a.cols % kRun == 0 && is_aligned(a.codes, kRun) && is_aligned(a.out, 16);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_fp8_kernel<<<blocks_of(a.rows * of_row.size), kThreads, 0, stream>>>(
        a, of_row, static_cast<decltype(type)>(a.out), wide);
  });
  check(cudaGetLastError());
}

}  // namespace qlora::quant
