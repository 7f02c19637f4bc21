#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "trainer/gradient_norm_backend.h"

namespace qlora::trainer {
namespace {

using qlora::cuda::check;
using quant::kSumGroup;

/// sums[b] = Σ (g·unscale)² of block b.
///   Launch    one CUDA block of 256 threads per block of 4,096 elements; reads 4 B an element
///   Numerics  bit-exact with cpu::gradient_norm: thread j adds elements j, j + 256, … in order
__global__ void square_blocks_kernel(GradientNormArgs a) {
  __shared__ double v[kSumGroup];
  const auto place = a.gradients.place(blockIdx.x);
  const GradientRange range = a.gradients.tensors[place.tensor];
  const int64_t first = place.block * kNormBlock;
  const int64_t end = first + kNormBlock < range.count ? first + kNormBlock : range.count;
  const float unscale = a.scalars->unscale;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = first + threadIdx.x; i < end; i += kSumGroup) {
    const double g = range.values[i] * unscale;
    sum += g * g;
  }
  v[threadIdx.x] = sum;
  const double all = qlora::cuda::block_sum<kSumGroup>(v);
  if (threadIdx.x == 0) a.scratch[blockIdx.x] = all;
}

/// sums[g] = sum of group g of values, in the order of quant::sum_group.
///   Launch    one CUDA block of 256 threads per group
__global__ void sum_norms_kernel(const double* values, int64_t count, double* sums) {
  __shared__ double v[kSumGroup];
  const int64_t i = int64_t{blockIdx.x} * kSumGroup + threadIdx.x;
  v[threadIdx.x] = i < count ? values[i] : 0.0;
  const double sum = qlora::cuda::block_sum<kSumGroup>(v);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void finish_norm_kernel(const double* sum, const float* loss, UpdateScalars* scalars) {
  finish_norm(sum == nullptr ? 0 : *sum, loss, *scalars);
}

}  // namespace

void cuda::gradient_norm(const GradientNormArgs& a) {
  const auto stream = static_cast<cudaStream_t>(a.stream);
  const double* sum = nullptr;
  if (a.gradients.block_count > 0) {
    unsigned count = qlora::cuda::grid_size(a.gradients.block_count, 1);
    square_blocks_kernel<<<count, kSumGroup, 0, stream>>>(a);
    check(cudaGetLastError());
    double* sums = a.scratch;
    while (count > 1) {
      const unsigned groups = qlora::cuda::grid_size(count, kSumGroup);
      sum_norms_kernel<<<groups, kSumGroup, 0, stream>>>(sums, int64_t{count}, sums + count);
      check(cudaGetLastError());
      sums += count;
      count = groups;
    }
    sum = sums;
  }
  finish_norm_kernel<<<1, 1, 0, stream>>>(sum, a.loss, a.scalars);
  check(cudaGetLastError());
}

}  // namespace qlora::trainer
