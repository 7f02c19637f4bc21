#include "core/cuda/launch.h"

#include "core/error.h"

namespace qlora::cuda {

unsigned grid_size(int64_t count, int64_t per_block) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  QLORA_CHECK(blocks >= 1 && blocks <= INT32_MAX, ValueError,
              "[cuda] a launch over {} items needs {} blocks, allowed [1, {}]", count, blocks,
              INT32_MAX);
  return static_cast<unsigned>(blocks);
}

}  // namespace qlora::cuda
