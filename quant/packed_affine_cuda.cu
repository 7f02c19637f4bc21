#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "quant/affine_math.h"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"
#include "quant/packed_affine_backend.h"

namespace qlora::quant {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;

/// out[n, k] = scale(n, g) · (code(n, k) - zero(n, g))
///   Launch    one thread per element, 256 per block; neighbours share a byte, a scale and a zero
///   Numerics  bit-exact with cpu::dequantize_packed
template <class Out>
__global__ void dequantize_packed_kernel(PackedAffineArgs a, Out* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.rows * a.cols) return;
  const int64_t row = i / a.cols, col = i % a.cols;
  const int64_t group = a.group_of != nullptr ? a.group_of[col] : col / a.group_size;
  const int64_t at = row * a.groups + group;
  const uint8_t code = packed_code(a.codes + row * a.row_bytes, col, a.two_a_byte);
  const AffineGrid grid{load_number(a.scale_kind, a.scales, at), a.zeros[at]};
  store_rounded(affine_value(code, grid), out + i);
}

/// out[n, k] = scale(n) · fp8(codes[n, k])
///   Launch    one thread per element, 256 per block
///   Numerics  bit-exact with cpu::dequantize_fp8
template <class Out>
__global__ void dequantize_fp8_kernel(Fp8DequantArgs a, Out* out) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.rows * a.cols) return;
  const float scale = a.scales[a.scale_per_row ? i / a.cols : 0];
  store_rounded(fp8_to_float(a.codes[i]) * scale, out + i);
}

}  // namespace

void cuda::dequantize_packed(const PackedAffineArgs& a) {
  if (a.rows * a.cols <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_packed_kernel<<<qlora::cuda::grid_size(a.rows * a.cols, kThreads), kThreads, 0,
                               stream>>>(a, static_cast<decltype(type)>(a.out));
  });
  check(cudaGetLastError());
}

void cuda::dequantize_fp8(const Fp8DequantArgs& a) {
  if (a.rows * a.cols <= 0) return;
  const auto stream = static_cast<cudaStream_t>(a.stream);
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_fp8_kernel<<<qlora::cuda::grid_size(a.rows * a.cols, kThreads), kThreads, 0,
                            stream>>>(a, static_cast<decltype(type)>(a.out));
  });
  check(cudaGetLastError());
}

}  // namespace qlora::quant
