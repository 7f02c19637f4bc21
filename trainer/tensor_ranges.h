#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/parallel.h"

namespace qlora::trainer {

/// Calls body(tensor, begin, end) so that the blocks of all tensors, taken as one row, are shared
/// evenly among the threads; begin and end are elements.
///   grain_blocks  fewest blocks worth a thread of their own
template <class Tensor, class Body>
void parallel_over_blocks(std::span<const Tensor> tensors, int64_t block, int64_t grain_blocks,
                          const Body& body) {
  const auto blocks = [&](const Tensor& t) { return (t.count + block - 1) / block; };
  int64_t total = 0;
  for (const Tensor& tensor : tensors) total += blocks(tensor);
  parallel_for(total, grain_blocks, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // number of the tensor's first block
    for (const Tensor& tensor : tensors) {
      const int64_t from = std::max(begin, first) - first;
      const int64_t to = std::min(end - first, blocks(tensor));
      if (from < to) body(tensor, from * block, std::min(to * block, tensor.count));
      first += blocks(tensor);
    }
  });
}

}  // namespace qlora::trainer
