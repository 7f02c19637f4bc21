#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "trainer/adamw32_backend.h"

namespace qlora::trainer {
namespace {

using qlora::cuda::check;

constexpr int kThreads = 256;

/// One update of a tensor with 32-bit states.
///   Launch    one thread per element, 256 per block; reads 16 B and writes 12 B
///   Numerics  bit-exact with cpu::adamw32
__global__ void adamw32_kernel(Adamw32Tensor t, AdamwStep step) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= t.count) return;
  t.mean[i] = adamw_mean(t.mean[i], t.gradient[i], step);
  t.square[i] = adamw_square(t.square[i], t.gradient[i], step);
  t.parameter[i] = adamw_parameter(t.parameter[i], t.mean[i], t.square[i], step);
}

}  // namespace

void cuda::adamw32(const Adamw32Args& args) {
  const auto stream = static_cast<cudaStream_t>(args.stream);
  for (const Adamw32Tensor& tensor : args.tensors) {
    if (tensor.count == 0) continue;
    adamw32_kernel<<<qlora::cuda::grid_size(tensor.count, kThreads), kThreads, 0, stream>>>(
        tensor, args.step);
    check(cudaGetLastError());
  }
}

}  // namespace qlora::trainer
