// The detector itself: every planted bug is found, and its twin without the bug passes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/emulation/emulated_cuda.h"
#include "tests/emulation/planted/kernels.h"
#include "tests/kernels/back_end.h"

namespace qlora::emulation {
namespace {

using planted::kThreads;
using planted::Variant;

constexpr int kCount = 5 * kThreads + 37;
constexpr int kBlocks = 6;

template <class T>
testing::DeviceArray<T> on_device(const std::vector<T>& values) {
  return {testing::BackEnd::kCuda, values};
}

std::vector<float> input() {
  return testing::normal_values(kCount, 1, 1.0f);
}

class PlantedBug : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override {
    ASSERT_NE(emulated_device(), nullptr);
    emulated_device()->set_seed(GetParam());
    ::testing::FLAGS_gtest_death_test_style = "fast";
  }

  std::vector<float> values_ = input();
  testing::DeviceArray<float> in_ = on_device(values_);
  testing::DeviceArray<float> out_ = on_device(std::vector<float>(kCount, -1));
};

/// Runs what was queued, as a test that reads results does.
#define EXPECT_CAUGHT(statement, message) \
  EXPECT_DEATH(                           \
      {                                   \
        statement;                        \
        cudaDeviceSynchronize();          \
      },                                  \
      message)

TEST_P(PlantedBug, MissingBarrier) {
  planted::reverse_blocks(Variant::kRight, in_.data(), out_.data(), kCount, nullptr);
  EXPECT_EQ(out_.values()[3], values_[kThreads - 4]);
  EXPECT_CAUGHT(planted::reverse_blocks(Variant::kWrong, in_.data(), out_.data(), kCount, nullptr),
                "a race: .* thread .*shared memory");
}

TEST_P(PlantedBug, ReuseOfSharedStorage) {
  auto out = on_device(std::vector<float>(2 * kBlocks));
  planted::sum_and_maximum(Variant::kRight, in_.data(), out.data(), kCount);
  EXPECT_EQ(out.values()[kBlocks], *std::max_element(values_.begin(), values_.begin() + kThreads));
  EXPECT_CAUGHT(planted::sum_and_maximum(Variant::kWrong, in_.data(), out.data(), kCount),
                "a race: .* by thread .*shared memory");
}

TEST_P(PlantedBug, DivergentShuffle) {
  auto out = on_device(std::vector<float>(kBlocks * kThreads / 32));
  planted::warp_sums(Variant::kRight, in_.data(), out.data(), kCount);
  const double want = std::accumulate(values_.begin(), values_.begin() + 32, 0.0);
  EXPECT_NEAR(out.values()[0], want,
              32 * 5 * 0x1p-24 * 4);  // five additions of numbers below 4 a lane
  EXPECT_CAUGHT(planted::warp_sums(Variant::kWrong, in_.data(), out.data(), kCount),
                "a warp mask names lane|lanes of one mask are at different warp calls|deadlock");
}

TEST_P(PlantedBug, WriteBehindTheEnd) {
  planted::twice(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values()[kCount - 1], 2 * values_[kCount - 1]);
  EXPECT_CAUGHT(planted::twice(Variant::kWrong, in_.data(), out_.data(), kCount),
                "an access outside every allocation");
}

TEST_P(PlantedBug, RaceBetweenBlocks) {
  auto found = on_device(std::vector<int>{0});
  planted::count_positive(Variant::kRight, in_.data(), found.data(), kCount);
  EXPECT_EQ(found.values()[0],
            std::count_if(values_.begin(), values_.end(), [](float x) { return x > 0; }));
  EXPECT_CAUGHT(planted::count_positive(Variant::kWrong, in_.data(), found.data(), kCount),
                "a race: .*another block");
}

TEST_P(PlantedBug, MissingWarpBarrier) {
  planted::swap_neighbours(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values()[6], values_[7]);
  EXPECT_CAUGHT(planted::swap_neighbours(Variant::kWrong, in_.data(), out_.data(), kCount),
                "a race: .*shared memory");
}

TEST_P(PlantedBug, BarrierInTwoBranches) {
  planted::meet(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values(), values_);
  EXPECT_CAUGHT(planted::meet(Variant::kWrong, in_.data(), out_.data(), kCount),
                "met at different places");
}

/// Shared memory starts as NaN, and NaN counts as failure.
TEST_P(PlantedBug, SharedMemoryThatNobodyWrote) {
  planted::keep_shared(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values(), values_);
  planted::keep_shared(Variant::kWrong, in_.data(), out_.data(), kCount);
  const auto wrong = out_.values();
  for (int i = 0; i < kCount; ++i) EXPECT_EQ(std::isnan(wrong[i]), i % 2 == 1) << i;
}

TEST_P(PlantedBug, TicketWithoutAFence) {
  auto partial = on_device(std::vector<float>(kBlocks));
  auto ticket = on_device(std::vector<unsigned>{0});
  auto sum = on_device(std::vector<float>{0});
  for (int run = 0; run < 2; ++run) {
    planted::sum_in_last_block(Variant::kRight, in_.data(), partial.data(), ticket.data(),
                               sum.data(), kCount);
    EXPECT_NEAR(sum.values()[0], std::accumulate(values_.begin(), values_.end(), 0.0),
                kCount * 0x1p-24 * 64);
  }
  EXPECT_CAUGHT(planted::sum_in_last_block(Variant::kWrong, in_.data(), partial.data(),
                                           ticket.data(), sum.data(), kCount),
                "a race: reads what was written by another block");
}

TEST_P(PlantedBug, MisalignedVector) {
  planted::copy_four(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values()[5], values_[5]);
  EXPECT_CAUGHT(planted::copy_four(Variant::kWrong, in_.data(), out_.data(), kCount),
                "a misaligned access, 16 bytes");
}

TEST_P(PlantedBug, HalvesOfAWarpWaitForEachOther) {
  planted::wait_in_halves(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values(), values_);
  EXPECT_CAUGHT(planted::wait_in_halves(Variant::kWrong, in_.data(), out_.data(), kCount),
                "deadlock: waits for ever");
}

TEST_P(PlantedBug, TooLittleDynamicSharedMemory) {
  planted::reverse_dynamic(Variant::kRight, in_.data(), out_.data(), 100);
  EXPECT_EQ(out_.values()[0], values_[99]);
  EXPECT_CAUGHT(planted::reverse_dynamic(Variant::kWrong, in_.data(), out_.data(), 100),
                "shared memory has 396 bytes, 4 at 396");
}

TEST_P(PlantedBug, UseAfterFree) {
  float* freed = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&freed), kCount * sizeof(float)), cudaSuccess);
  ASSERT_EQ(cudaFree(freed), cudaSuccess);
  EXPECT_CAUGHT(planted::twice(Variant::kRight, in_.data(), freed, kCount),
                "an access outside every allocation");
}

TEST_P(PlantedBug, HostPointerOnTheDevice) {
  EXPECT_CAUGHT(planted::twice(Variant::kRight, values_.data(), out_.data(), kCount),
                "an access outside every allocation");
}

TEST_P(PlantedBug, DevicePointerOnTheHost) {
  EXPECT_EXIT(out_.data()[0] = 1, ::testing::KilledBySignal(SIGSEGV), "");
}

/// A side stream that does not wait for the copy gives other numbers for some order of the streams.
TEST(PlantedStreamBug, MissingWait) {
  cudaStream_t first = nullptr, second = nullptr;
  cudaEvent_t done = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
  const auto values = input();
  auto in = on_device(values), middle = on_device(std::vector<float>(kCount)),
       out = on_device(std::vector<float>(kCount));
  const auto wrong_orders = [&](bool waits) {
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      emulated_device()->set_seed(seed);
      cudaMemset(middle.data(), 0, kCount * sizeof(float));
      cudaMemset(out.data(), 0, kCount * sizeof(float));
      cudaDeviceSynchronize();
      planted::add_to(in.data(), middle.data(), kCount, first);
      cudaEventRecord(done, first);
      if (waits) cudaStreamWaitEvent(second, done, 0);
      planted::add_to(middle.data(), out.data(), kCount, second);
      cudaDeviceSynchronize();
      wrong += out.values() == values ? 0 : 1;
    }
    return wrong;
  };
  EXPECT_EQ(wrong_orders(true), 0);
  const int wrong = wrong_orders(false);
  EXPECT_GT(wrong, 0);
  EXPECT_LT(wrong, 20);  // other orders hide it
  emulated_device()->set_seed(0);
  cudaEventDestroy(done);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PlantedBug, ::testing::Values(0, 1, 2, 3));

}  // namespace
}  // namespace qlora::emulation
