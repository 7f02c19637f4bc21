// Activations that leave for pinned host memory and come back: order of copies and work, reuse.
#include <algorithm>
#include <memory>
#include <vector>

#include "model/activation_store_cuda.h"
#include "tests/emulation/emulated_cuda.h"
#include "tests/kernels/back_end.h"

namespace qlora::model {
namespace {

using cuda::PinnedStore;
using emulation::OperationKind;
using qlora::cuda::check;
using testing::BackEnd;
using testing::DeviceArray;

constexpr size_t kCount = 1000, kBytes = kCount * sizeof(float);
constexpr int kBlocks = 4;

class ActivationStoreTest : public testing::KernelTest {
 protected:
  void TearDown() override {
    if (auto* device = emulation::emulated_device()) device->set_seed(1);
  }
};

std::unique_ptr<DeviceArray<float>> filled_array(float value) {
  return std::make_unique<DeviceArray<float>>(BackEnd::kCuda, std::vector<float>(kCount, value));
}

/// Work on the caller's stream: every byte becomes `value`.
void work(DeviceArray<float>& array, int value, cudaStream_t stream) {
  check(cudaMemsetAsync(array.data(), value, kBytes, stream));
}

float number_of(int value) {
  const uint32_t bits = 0x01010101u * static_cast<uint32_t>(value);
  float number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}

// A pass over blocks with one array for what a block reads, as an allocator that reuses memory at
// once would give it; then the backward, in which two arrays take turns. Streams run in a random
// order where nothing orders them.
TEST_P(ActivationStoreTest, WhatLeftComesBackInEveryOrderOfStreams) {
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    if (auto* device = emulation::emulated_device()) device->set_seed(seed);
    PinnedStore store;
    const qlora::cuda::Stream stream;
    auto input = filled_array(0);
    std::vector<size_t> numbers;
    for (int block = 0; block < kBlocks; ++block) {
      if (block > 0) store.settle(numbers.back(), stream.get());
      work(*input, block + 1, stream.get());
      numbers.push_back(store.put(input->data(), kBytes, stream.get()));
    }
    store.settle(numbers.back(), stream.get());
    work(*input, 99, stream.get());

    std::unique_ptr<DeviceArray<float>> back[2] = {filled_array(0), filled_array(0)};
    std::vector<std::vector<float>> seen;
    store.fetch(numbers[kBlocks - 1], back[1]->data(), stream.get());
    for (int block = kBlocks - 1; block >= 0; --block) {
      if (block > 0) store.fetch(numbers[block - 1], back[(block - 1) % 2]->data(), stream.get());
      store.acquire(numbers[block], stream.get());
      store.release(numbers[block]);
      // What the block does with its input: read it, then overwrite it.
      auto& copy = seen.emplace_back(kCount);
      qlora::cuda::PinnedMemory pinned(kBytes);
      check(cudaMemcpyAsync(pinned.get(), back[block % 2]->data(), kBytes, cudaMemcpyDeviceToHost,
                            stream.get()));
      work(*back[block % 2], 77, stream.get());
      stream.synchronize();
      std::memcpy(copy.data(), pinned.get(), kBytes);
    }
    for (int block = 0; block < kBlocks; ++block) {
      EXPECT_EQ(seen[kBlocks - 1 - block], std::vector<float>(kCount, number_of(block + 1)))
          << "block " << block << ", seed " << seed;
    }
  }
}

TEST_P(ActivationStoreTest, CopiesRunBesideTheWork) {
  auto* const device = emulation::emulated_device();
  if (device == nullptr) GTEST_SKIP() << "the order is asserted under emulation";
  bool ran_beside = false;
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    device->set_seed(seed);
    PinnedStore store;
    const qlora::cuda::Stream stream;
    auto input = filled_array(0), other = filled_array(0);
    device->clear_operations();
    work(*input, 1, stream.get());
    const size_t number = store.put(input->data(), kBytes, stream.get());
    work(*other, 2, stream.get());  // the block, which needs its input and writes elsewhere
    store.settle(number, stream.get());
    work(*input, 3, stream.get());
    stream.synchronize();
    std::vector<size_t> sets, copies;
    const auto log = device->operations();
    for (size_t i = 0; i < log.size(); ++i) {
      if (log[i].kind == OperationKind::kSet) sets.push_back(i);
      if (log[i].kind == OperationKind::kCopy) copies.push_back(i);
    }
    ASSERT_EQ(sets.size(), 3u);
    ASSERT_EQ(copies.size(), 1u);
    EXPECT_NE(log[copies[0]].stream, log[sets[0]].stream);
    EXPECT_LT(sets[0], copies[0]);
    EXPECT_LT(copies[0], sets[2]);
    ran_beside = ran_beside || sets[1] < copies[0];
  }
  EXPECT_TRUE(ran_beside) << "the work between put and settle always waited for the copy";
}

TEST_P(ActivationStoreTest, PinnedMemoryIsUsedAgain) {
  PinnedStore store;
  const auto array = filled_array(1);
  const auto put = [&](size_t bytes) { return store.put(array->data(), bytes, nullptr); };
  const size_t large = put(kBytes), small = put(kBytes / 2);
  EXPECT_EQ(store.pinned_bytes(), static_cast<int64_t>(kBytes + kBytes / 2));
  store.release(large);
  store.release(small);
  EXPECT_EQ(put(kBytes / 4), small);  // the smallest that is large enough
  EXPECT_EQ(put(kBytes / 4), large);
  EXPECT_EQ(store.pinned_bytes(), static_cast<int64_t>(kBytes + kBytes / 2));
  EXPECT_NE(put(kBytes / 4), small);  // none is free
  check(cudaDeviceSynchronize());
}

INSTANTIATE_TEST_SUITE_P(, ActivationStoreTest,
                         ::testing::Values(testing::KernelCase{BackEnd::kCuda, FloatKind::kF32}),
                         testing::case_name);

}  // namespace
}  // namespace qlora::model
