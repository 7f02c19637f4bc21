#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace qlora::trainer {

/// Where the 8-bit states of many tensors lie in one arena: tensor after tensor its means, squares,
/// absmax of means, absmax of squares, each aligned to 16 bytes. Runs of whole tensors form chunks
/// that are moved to the device and back as one.
struct StatePlan {
  struct Slot {  // byte offsets
    size_t mean_codes, square_codes, mean_absmax, square_absmax;
  };
  struct Chunk {
    size_t offset, bytes;
    size_t first_tensor, tensor_count;
  };
  std::vector<Slot> slots;  // one a tensor
  std::vector<Chunk> chunks;
  size_t bytes = 0;
};

/// Plans tensors with `counts` elements. A chunk is as many tensors as reach least_chunk_bytes;
/// what is left over at the end joins the last chunk.
StatePlan plan_states(std::span<const int64_t> counts, size_t least_chunk_bytes);

}  // namespace qlora::trainer
