// The source route's detector: ThreadSanitizer finds the planted races, and nothing in their twins.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/emulation/device/machine.h"
#include "tests/emulation/planted/kernels.h"
#include "tests/kernels/back_end.h"

namespace qlora::emulation {
namespace {

using planted::kThreads;
using planted::Variant;

constexpr int kCount = 5 * kThreads + 37;
constexpr int kBlocks = 6;
constexpr int kRaceFound = 66;  // sanitizer_options.cpp

class SanitizedBug : public ::testing::TestWithParam<uint64_t> {
 protected:
  void SetUp() override { machine().set_seed(GetParam()); }

  std::vector<float> values_ = testing::normal_values(kCount, 1, 1.0f);
  testing::DeviceArray<float> in_{testing::BackEnd::kCuda, values_};
  testing::DeviceArray<float> out_{testing::BackEnd::kCuda, std::vector<float>(2 * kCount)};
};

#define EXPECT_RACE(statement) \
  EXPECT_EXIT(                 \
      {                        \
        statement;             \
        std::exit(0);          \
      },                       \
      ::testing::ExitedWithCode(kRaceFound), "data race")

TEST_P(SanitizedBug, MissingBarrier) {
  planted::reverse_blocks(Variant::kRight, in_.data(), out_.data(), kCount, nullptr);
  EXPECT_EQ(out_.values()[3], values_[kThreads - 4]);
  EXPECT_RACE(planted::reverse_blocks(Variant::kWrong, in_.data(), out_.data(), kCount, nullptr));
}

TEST_P(SanitizedBug, ReuseOfSharedStorage) {
  planted::sum_and_maximum(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values()[kBlocks], *std::max_element(values_.begin(), values_.begin() + kThreads));
  EXPECT_RACE(planted::sum_and_maximum(Variant::kWrong, in_.data(), out_.data(), kCount));
}

TEST_P(SanitizedBug, MissingWarpBarrier) {
  planted::swap_neighbours(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_EQ(out_.values()[6], values_[7]);
  EXPECT_RACE(planted::swap_neighbours(Variant::kWrong, in_.data(), out_.data(), kCount));
}

TEST_P(SanitizedBug, DivergentShuffle) {
  planted::warp_sums(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_DEATH(planted::warp_sums(Variant::kWrong, in_.data(), out_.data(), kCount),
               "a warp mask names lane|lanes of one mask are at different warp calls|deadlock");
}

TEST_P(SanitizedBug, BarrierInTwoBranches) {
  planted::meet(Variant::kRight, in_.data(), out_.data(), kCount);
  EXPECT_DEATH(planted::meet(Variant::kWrong, in_.data(), out_.data(), kCount),
               "met at different places");
}

INSTANTIATE_TEST_SUITE_P(Seeds, SanitizedBug, ::testing::Values(0, 1, 2));

}  // namespace
}  // namespace qlora::emulation
