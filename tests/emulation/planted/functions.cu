#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "tests/emulation/planted/functions.h"

namespace qlora::emulation::planted {
namespace {

constexpr int kBlock = 64;

__device__ int element() {
  return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

__global__ void float_kernel(const float* in, float* out, int count) {
  const int i = element();
  if (i >= count) return;
  const float x = in[i], a = fabsf(x);
  float sine, cosine;
  sincosf(1000 * x, &sine, &cosine);  // beyond the range of the quick reduction
  const float values[kFloatFunctions] = {expf(x),
                                         exp2f(x),
                                         expm1f(x),
                                         logf(a),
                                         log1pf(a),
                                         powf(a, 1.5f),
                                         sinf(x),
                                         cosf(x),
                                         sine,
                                         cosine,
                                         tanhf(x),
                                         erff(x),
                                         sqrtf(a),
                                         rsqrtf(a),
                                         cbrtf(x),
                                         1 / x,
                                         x / (1 + expf(-x)),
                                         fmodf(x, 0.7f),
                                         rintf(x),
                                         floorf(x) + ceilf(x),
                                         truncf(x),
                                         ldexpf(x, 3),
                                         __expf(x),
                                         fmaf(x, x, a)};
  for (int f = 0; f < kFloatFunctions; ++f) out[f * count + i] = values[f];
}

__global__ void double_kernel(const double* in, double* out, int count) {
  const int i = element();
  if (i >= count) return;
  const double x = in[i], a = fabs(x);
  const double values[kDoubleFunctions] = {exp(x),       log(a),  pow(a, 1.5), sin(x),      cos(x),
                                           sin(1e7 * x), sqrt(a), 1 / x,       fma(x, x, a)};
  for (int f = 0; f < kDoubleFunctions; ++f) out[f * count + i] = values[f];
}

/// The same operations on halves and on pairs of them, whose low parts are stored.
__global__ void f16_kernel(const __half* a, const __half* b, __half* out, int count) {
  const int i = element();
  if (i >= count) return;
  const __half x = a[i], y = b[i];
  const __half2 xy = __halves2half2(x, y), yx = __halves2half2(y, x);
  const __half values[kHalfFunctions] = {__hadd(x, y),
                                         __hmul(x, y),
                                         __hfma(x, y, x),
                                         __low2half(__hadd2(xy, yx)),
                                         __high2half(__hfma2(xy, yx, xy)),
                                         __hmax(x, y),
                                         __hneg(x),
                                         __habs(y),
                                         __float2half_rn(__half2float(x) + __half2float(y) * 3)};
  for (int f = 0; f < kHalfFunctions; ++f) out[f * count + i] = values[f];
}

__global__ void bf16_kernel(const __nv_bfloat16* a, const __nv_bfloat16* b, __nv_bfloat16* out,
                            int count) {
  const int i = element();
  if (i >= count) return;
  const __nv_bfloat16 x = a[i], y = b[i];
  const __nv_bfloat162 xy = __halves2bfloat162(x, y), yx = __halves2bfloat162(y, x);
  const __nv_bfloat16 values[kHalfFunctions] = {
      __hadd(x, y),
      __hmul(x, y),
      __hfma(x, y, x),
      __low2bfloat16(__hadd2(xy, yx)),
      __high2bfloat16(__hfma2(xy, yx, xy)),
      __hmax(x, y),
      __hneg(x),
      __habs(y),
      __float2bfloat16_rn(__bfloat162float(x) + __bfloat162float(y) * 3)};
  for (int f = 0; f < kHalfFunctions; ++f) out[f * count + i] = values[f];
}

__global__ void integer_kernel(const int32_t* a, const int32_t* b, int64_t* out, int count) {
  const int i = element();
  if (i >= count) return;
  const int32_t x = a[i], y = b[i];
  const auto u = static_cast<uint32_t>(x), v = static_cast<uint32_t>(y);
  const int64_t wide = int64_t{x} << 20 ^ y;
  const int64_t values[kIntegerFunctions] = {
      x / (y | 1),
      x % (y | 1),
      u / (v | 1),
      u % (v | 1),
      wide / (int64_t{y} | 1),
      wide % (int64_t{y} | 1),
      __dp4a(x, y, 3),
      static_cast<int64_t>(__dp4a(u, v, 3u)),
      __popc(u),
      __clz(x),
      __ffs(x),
      static_cast<int64_t>(__brev(u)),
      static_cast<int64_t>(__byte_perm(u, v, 0x3715)),
      static_cast<int64_t>(__funnelshift_l(u, v, 7)),
      __mulhi(x, y),
      static_cast<int64_t>(__umulhi(u, v)),
      static_cast<int64_t>(__umul64hi(wide, wide)),
      wide >> (v & 63),
      x >> (v & 31),
      static_cast<int64_t>(((u >> 5) & 0x1Fu) << 9 | (v & 0x1FFu))};
  for (int f = 0; f < kIntegerFunctions; ++f) out[f * count + i] = values[f];
}

__global__ void warp_kernel(const int32_t* in, int32_t* out, int count) {
  const int i = element();
  if (i >= count) return;  // whole warps
  constexpr unsigned kAll = 0xFFFFFFFFu;
  const int32_t x = in[i];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int32_t values[kWarpFunctions] = {
      __shfl_sync(kAll, x, 5),
      __shfl_sync(kAll, x, lane + 3, 8),
      __shfl_up_sync(kAll, x, 3),
      __shfl_up_sync(kAll, x, 3, 16),
      __shfl_down_sync(kAll, x, 6),
      __shfl_xor_sync(kAll, x, 20),
      static_cast<int32_t>(__ballot_sync(kAll, x > 0)),
      __any_sync(kAll, x > 100),
      __all_sync(kAll, x > -100),
      static_cast<int32_t>(__reduce_add_sync(kAll, static_cast<unsigned>(x))),
      __reduce_min_sync(kAll, x)};
  for (int f = 0; f < kWarpFunctions; ++f) out[f * count + i] = values[f];
}

__global__ void atomic_kernel(const int32_t* in, int32_t* totals, float* float_sum,
                              double* double_sum, int count) {
  const int i = element();
  if (i >= count) return;
  atomicAdd(totals, in[i]);
  atomicMin(totals + 1, in[i]);
  atomicMax(totals + 2, in[i]);
  atomicOr(totals + 3, in[i]);
  atomicAnd(totals + 4, in[i]);
  atomicXor(totals + 5, in[i]);
  atomicCAS(totals + 6, 0, 1);
  atomicExch(totals + 7, 9);
  atomicAdd(float_sum, static_cast<float>(in[i]));
  atomicAdd(double_sum, static_cast<double>(in[i]));
}

__global__ void wrapping_kernel(const float* in, float* out, int count) {
  __shared__ float values[kBlock];
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = thread < count ? in[count - 1 - thread] : 0;
  __syncthreads();
  const auto base = static_cast<uint32_t>(__cvta_generic_to_shared(values));
  float value = 0;
  asm volatile("ld.shared.f32 %0, [%1+1024];" : "=f"(value) : "r"(base + 4 * thread - 1024));
  if (thread < count) out[thread] = value;
}

unsigned blocks_of(int count) {
  return qlora::cuda::grid_size(count, kBlock);
}

}  // namespace

void wrapping_addresses(const float* in, float* out, int count) {
  wrapping_kernel<<<1, kBlock>>>(in, out, count);
  qlora::cuda::check(cudaGetLastError());
}

void float_functions(const float* in, float* out, int count) {
  float_kernel<<<blocks_of(count), kBlock>>>(in, out, count);
  qlora::cuda::check(cudaGetLastError());
}

void double_functions(const double* in, double* out, int count) {
  double_kernel<<<blocks_of(count), kBlock>>>(in, out, count);
  qlora::cuda::check(cudaGetLastError());
}

void half_functions(const uint16_t* a, const uint16_t* b, uint16_t* out, int count, bool is_bf16) {
  if (is_bf16) {
    bf16_kernel<<<blocks_of(count), kBlock>>>(reinterpret_cast<const __nv_bfloat16*>(a),
                                              reinterpret_cast<const __nv_bfloat16*>(b),
                                              reinterpret_cast<__nv_bfloat16*>(out), count);
  } else {
    f16_kernel<<<blocks_of(count), kBlock>>>(reinterpret_cast<const __half*>(a),
                                             reinterpret_cast<const __half*>(b),
                                             reinterpret_cast<__half*>(out), count);
  }
  qlora::cuda::check(cudaGetLastError());
}

void integer_functions(const int32_t* a, const int32_t* b, int64_t* out, int count) {
  integer_kernel<<<blocks_of(count), kBlock>>>(a, b, out, count);
  qlora::cuda::check(cudaGetLastError());
}

void warp_functions(const int32_t* in, int32_t* out, int count) {
  warp_kernel<<<blocks_of(count), kBlock>>>(in, out, count);
  qlora::cuda::check(cudaGetLastError());
}

void atomic_functions(const int32_t* in, int32_t* totals, float* float_sum, double* double_sum,
                      int count) {
  atomic_kernel<<<blocks_of(count), kBlock>>>(in, totals, float_sum, double_sum, count);
  qlora::cuda::check(cudaGetLastError());
}

}  // namespace qlora::emulation::planted
