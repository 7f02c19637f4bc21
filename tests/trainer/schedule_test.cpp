#include "trainer/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <vector>

namespace qlora::trainer {
namespace {

std::vector<double> rates(const ScheduleOptions& options, int64_t total) {
  std::vector<double> all;
  for (int64_t step = 0; step < total; ++step) {
    all.push_back(learning_rate(options, 2e-4, step, total));
  }
  return all;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-18) << "step " << i;
}

// get_linear_schedule_with_warmup(optimizer, 3, 10) of transformers 5.23, lr 2e-4.
TEST(Schedule, LinearWithWarmupIsTransformers) {
  expect_near(rates({.kind = ScheduleKind::kLinear, .warmup_steps = 3}, 10),
              {0.0, 2e-4 / 3, 2e-4 * 2 / 3, 2e-4, 2e-4 * 6 / 7, 2e-4 * 5 / 7, 2e-4 * 4 / 7,
               2e-4 * 3 / 7, 2e-4 * 2 / 7, 2e-4 * 1 / 7});
}

TEST(Schedule, LinearWithoutWarmupBeginsAtThePeak) {
  expect_near(rates({.kind = ScheduleKind::kLinear}, 4), {2e-4, 1.5e-4, 1e-4, 0.5e-4});
}

// get_cosine_schedule_with_warmup: 0.5 (1 + cos(pi progress)).
TEST(Schedule, CosineWithWarmupIsTransformers) {
  std::vector<double> want = {0.0, 1e-4};
  for (int i = 0; i < 6; ++i) want.push_back(1e-4 * (1 + std::cos(std::numbers::pi * i / 6)));
  expect_near(rates({.kind = ScheduleKind::kCosine, .warmup_steps = 2}, 8), want);
}

TEST(Schedule, ConstantHasNoWarmupItsSiblingHas) {
  expect_near(rates({.kind = ScheduleKind::kConstant, .warmup_steps = 2}, 3), {2e-4, 2e-4, 2e-4});
  expect_near(rates({.kind = ScheduleKind::kConstantWithWarmup, .warmup_steps = 2}, 4),
              {0.0, 1e-4, 2e-4, 2e-4});
}

TEST(Schedule, WarmupRatioIsRoundedUpAndStepsBeatIt) {
  EXPECT_EQ(warmup_steps({.warmup_ratio = 0.03}, 101), 4);  // ceil(3.03)
  EXPECT_EQ(warmup_steps({.warmup_ratio = 0.03}, 100), 3);
  EXPECT_EQ(warmup_steps({.warmup_ratio = 0.5, .warmup_steps = 7}, 100), 7);
  EXPECT_EQ(warmup_steps({.kind = ScheduleKind::kConstant, .warmup_ratio = 0.5}, 100), 0);
}

TEST(Schedule, BeyondTheEndTheRateIsZero) {
  for (const auto kind : {ScheduleKind::kLinear, ScheduleKind::kCosine}) {
    EXPECT_EQ(learning_rate({.kind = kind}, 1.0, 10, 10), 0.0);
    EXPECT_EQ(learning_rate({.kind = kind}, 1.0, 99, 10), 0.0);
    EXPECT_EQ(learning_rate({.kind = kind, .warmup_steps = 20}, 1.0, 25, 10), 0.0);
  }
}

}  // namespace
}  // namespace qlora::trainer
