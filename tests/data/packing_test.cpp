#include "data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace qlora::data {
namespace {

using Bins = std::vector<std::vector<int32_t>>;

/// The rule as it is told: longest first, each into the first bin with room.
Bins pack_slowly(const std::vector<int64_t>& lengths, std::vector<int32_t> order,
                 int64_t capacity) {
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return lengths[a] > lengths[b]; });
  Bins bins;
  std::vector<int64_t> room;
  for (const int32_t item : order) {
    size_t bin = 0;
    while (bin < bins.size() && room[bin] < lengths[item]) ++bin;
    if (bin == bins.size()) {
      bins.emplace_back();
      room.push_back(capacity);
    }
    bins[bin].push_back(item);
    room[bin] -= lengths[item];
  }
  return bins;
}

TEST(Packing, EqualsTheRule) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 400; ++round) {
    const auto capacity = static_cast<int64_t>(1 + random() % 50);
    std::vector<int64_t> lengths(random() % 40);
    for (auto& length : lengths) length = static_cast<int64_t>(1 + random() % capacity);
    std::vector<int32_t> order(lengths.size());
    std::iota(order.begin(), order.end(), 0);
    const Bins plain = pack_first_fit_decreasing(lengths, order, capacity);
    std::shuffle(order.begin(), order.end(), random);
    const Bins bins = pack_first_fit_decreasing(lengths, order, capacity);
    ASSERT_EQ(bins, pack_slowly(lengths, order, capacity));
    ASSERT_EQ(bins.size(), plain.size());  // the order decides who, not how many
  }
}

}  // namespace
}  // namespace qlora::data
