#include "data/packing.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace qlora::data {
namespace {

/// The largest free room below every node of a binary tree over the bins; empty bins are free.
class RoomTree {
 public:
  RoomTree(size_t bins, int64_t capacity)
      : leaves_(std::bit_ceil(std::max<size_t>(bins, 1))), room_(2 * leaves_, capacity) {}

  size_t first_with(int64_t length) const {
    assert(room_[1] >= length && "there are as many bins as items");
    size_t node = 1;
    while (node < leaves_) node = 2 * node + (room_[2 * node] < length);
    return node - leaves_;
  }
  void take(size_t bin, int64_t length) {
    size_t node = bin + leaves_;
    room_[node] -= length;
    while (node > 1) {
      node /= 2;
      room_[node] = std::max(room_[2 * node], room_[2 * node + 1]);
    }
  }

 private:
  size_t leaves_;
  std::vector<int64_t> room_;
};

}  // namespace

std::vector<std::vector<int32_t>> pack_first_fit_decreasing(const std::vector<int64_t>& lengths,
                                                            const std::vector<int32_t>& order,
                                                            int64_t capacity) {
  std::vector<int32_t> sorted = order;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });
  RoomTree tree(sorted.size(), capacity);
  std::vector<std::vector<int32_t>> bins;
  for (const int32_t item : sorted) {
    const size_t bin = tree.first_with(lengths[item]);
    tree.take(bin, lengths[item]);
    if (bin == bins.size()) bins.emplace_back();
    bins[bin].push_back(item);
  }
  return bins;
}

}  // namespace qlora::data
