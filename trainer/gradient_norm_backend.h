#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/nf4_backend.h"
#include "trainer/tensor_table.h"
#include "trainer/update_scalars.h"

namespace qlora::trainer {

/// Consecutive elements of one gradient whose squares are summed first: a row of kSumGroup chains
/// of 16, then the tree of quant::sum_group. The sums of all blocks, tensor after tensor, are
/// summed by that tree in groups of kSumGroup until one is left.
inline constexpr int64_t kNormBlock = 4096;

struct GradientRange {
  const float* values;  // [count]
  int64_t count;
};

/// Norm over all gradients, each multiplied by scalars->unscale; then finish_norm.
///   Numerics  bit-exact between back ends and thread counts: products with unscale are rounded to
///             FP32, squares and sums are FP64 in the order of kNormBlock
struct GradientNormArgs {
  TensorTable<GradientRange> gradients;  // blocks of kNormBlock
  const float* loss;                     // [1] or null
  double* scratch;                       // [norm_scratch_size(gradients.block_count)]
  UpdateScalars* scalars;
  void* stream = nullptr;  // cudaStream_t
};

QLORA_HD int64_t norm_scratch_size(int64_t block_count) {
  return block_count + quant::mean_scratch_size(block_count);
}

namespace cpu {
void gradient_norm(const GradientNormArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void gradient_norm(const GradientNormArgs& args);
}  // namespace cuda

}  // namespace qlora::trainer
