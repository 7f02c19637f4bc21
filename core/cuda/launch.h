#pragma once

#include <cstdint>

namespace qlora::cuda {

/// Blocks that a launch needs for `count` items, `per_block` each.
///   throws    ValueError where CUDA's grid cannot hold so many (2^31 - 1), or there are none
unsigned grid_size(int64_t count, int64_t per_block);

/// The same along the grid's second and third side, which hold 65,535 blocks.
unsigned grid_rows(int64_t count, int64_t per_block);

}  // namespace qlora::cuda
