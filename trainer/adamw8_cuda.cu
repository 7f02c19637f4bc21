#include "core/cuda/check.h"
#include "core/cuda/launch.h"
#include "core/cuda/reduce.cuh"
#include "quant/blockwise8_math.h"
#include "trainer/adamw8_backend.h"

namespace qlora::trainer {
namespace {

using qlora::cuda::block_max;
using qlora::cuda::check;
using quant::bits_float;
using quant::float_bits;

constexpr int kThreads = kAdamwBlock;

/// One update of a tensor with 8-bit states.
///   Launch    one CUDA block of 256 threads per block of 256 elements, one thread per element;
///             reads 10 B and writes 6 B an element
///   Numerics  bit-exact with cpu::adamw8
__global__ void adamw8_kernel(Adamw8Tensor t, AdamwStep step) {
  const int64_t block = blockIdx.x;
  const int64_t i = block * kThreads + threadIdx.x;
  const bool is_inside = i < t.count;
  const quant::DynamicTable& means = quant::signed_dynamic_table();
  const quant::DynamicTable& squares = quant::unsigned_dynamic_table();
  float mean = 0, square = 0;  // beyond the end: do not raise the maxima
  if (is_inside) {
    mean = quant::blockwise8_value(means, t.mean_codes[i], t.mean_absmax[block]);
    square = quant::blockwise8_value(squares, t.square_codes[i], t.square_absmax[block]);
    mean = adamw_mean(mean, t.gradient[i], step);
    square = adamw_square(square, t.gradient[i], step);
    t.parameter[i] = adamw_parameter(t.parameter[i], mean, square, step);
  }
  const auto mean_scale = quant::blockwise8_scale(
      bits_float(block_max<kThreads>(float_bits(mean) & ~quant::kFloatSignBit)));
  const auto square_scale = quant::blockwise8_scale(
      bits_float(block_max<kThreads>(float_bits(square) & ~quant::kFloatSignBit)));
  if (is_inside) {
    t.mean_codes[i] = quant::blockwise8_code(means, mean, mean_scale, quant::SignRule::kKeep);
    t.square_codes[i] =
        quant::blockwise8_code(squares, square, square_scale, quant::SignRule::kNearest);
  }
  if (threadIdx.x == 0) {  // all threads have read the old ones: block_max waits for them
    t.mean_absmax[block] = mean_scale.absmax;
    t.square_absmax[block] = square_scale.absmax;
  }
}

}  // namespace

void cuda::adamw8(const Adamw8Args& args) {
  const auto stream = static_cast<cudaStream_t>(args.stream);
  for (const Adamw8Tensor& tensor : args.tensors) {
    if (tensor.count == 0) continue;
    const unsigned blocks = qlora::cuda::grid_size(tensor.count, kThreads);
    adamw8_kernel<<<blocks, kThreads, 0, stream>>>(tensor, args.step);
    check(cudaGetLastError());
  }
}

}  // namespace qlora::trainer
