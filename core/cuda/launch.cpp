#include "core/cuda/launch.h"

#include "core/error.h"

namespace qlora::cuda {

namespace {

unsigned checked_blocks(int64_t count, int64_t per_block, int64_t most) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  QLORA_CHECK(blocks >= 1 && blocks <= most, ValueError,
              "[cuda] a launch over {} items needs {} blocks, allowed [1, {}]", count, blocks,
              most);
  return static_cast<unsigned>(blocks);
}

}  // namespace

unsigned grid_size(int64_t count, int64_t per_block) {
  return checked_blocks(count, per_block, INT32_MAX);
}

unsigned grid_rows(int64_t count, int64_t per_block) {
  return checked_blocks(count, per_block, UINT16_MAX);
}

}  // namespace qlora::cuda
