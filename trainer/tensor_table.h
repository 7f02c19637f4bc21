#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/host_device.h"

namespace qlora::trainer {

/// Many tensors as one row of blocks, so that one launch takes all of them. Pointers are memory of
/// the device that works on it.
template <class Tensor>
struct TensorTable {
  const Tensor* tensors;       // [tensor_count]
  const int64_t* first_block;  // [tensor_count + 1], rising: number of a tensor's first block
  int64_t tensor_count;
  int64_t block_count;  // first_block[tensor_count]

  /// Tensor of a block, and the block's number in it.
  struct Place {
    int64_t tensor;
    int64_t block;
  };
  QLORA_HD Place place(int64_t block) const {
    int64_t low = 0, high = tensor_count;  // first_block[low] <= block < first_block[high]
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (first_block[middle] <= block ? low : high) = middle;
    }
    return {low, block - first_block[low]};
  }
};

/// first_block of tensors that have `count` elements each, in blocks of `block` elements.
template <class Tensor>
std::vector<int64_t> first_blocks(std::span<const Tensor> tensors, int64_t block) {
  std::vector<int64_t> first = {0};
  for (const Tensor& tensor : tensors) {
    first.push_back(first.back() + (tensor.count + block - 1) / block);
  }
  return first;
}

/// The table of tensors on the host, which have to outlive it, as do their first_blocks.
template <class Tensor>
TensorTable<Tensor> host_table(std::span<const Tensor> tensors,
                               const std::vector<int64_t>& first_block) {
  return {tensors.data(), first_block.data(), static_cast<int64_t>(tensors.size()),
          first_block.back()};
}

}  // namespace qlora::trainer
