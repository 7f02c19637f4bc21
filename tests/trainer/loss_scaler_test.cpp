#include "trainer/loss_scaler.h"

#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

namespace qlora::trainer {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

StepStats stats_of(double loss, double norm) {
  return {.loss = loss, .gradient_norm = norm};
}

TEST(LossScaler, AutoScalesFp16Alone) {
  EXPECT_EQ(LossScaler({}, torch::kFloat16).factor(), 65536.0);
  EXPECT_EQ(LossScaler({}, torch::kBFloat16).factor(), 1.0);
  EXPECT_EQ(LossScaler({}, torch::kFloat32).factor(), 1.0);
  EXPECT_EQ(LossScaler({.kind = LossScalingKind::kOff}, torch::kFloat16).factor(), 1.0);
  EXPECT_EQ(LossScaler({.kind = LossScalingKind::kDynamic}, torch::kFloat32).factor(), 65536.0);
}

TEST(LossScaler, DynamicFallsAtOnceAndGrowsAfterAGoodRun) {
  LossScaler scaler({.kind = LossScalingKind::kDynamic, .growth_interval_steps = 3},
                    torch::kFloat16);
  EXPECT_FALSE(scaler.update(stats_of(1, kInf)));
  EXPECT_EQ(scaler.factor(), 32768.0);
  EXPECT_FALSE(scaler.update(stats_of(kNan, 1)));
  EXPECT_EQ(scaler.factor(), 16384.0);
  EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_EQ(scaler.factor(), 16384.0);
  EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_EQ(scaler.factor(), 32768.0);
  EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_FALSE(scaler.update(stats_of(1, kNan)));  // the good run begins anew
  EXPECT_EQ(scaler.factor(), 16384.0);
  EXPECT_EQ(scaler.state().good_steps, 0);
}

TEST(LossScaler, GrowthEndsAtTheCeiling) {
  LossScaler scaler({.kind = LossScalingKind::kDynamic, .growth_interval_steps = 1},
                    torch::kFloat16);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_EQ(scaler.factor(), LossScaler::kHighestScale);
}

TEST(LossScaler, StaticKeepsItsFactorButRefusesBadSteps) {
  LossScaler scaler({.kind = LossScalingKind::kStatic, .initial_scale = 128}, torch::kFloat16);
  EXPECT_FALSE(scaler.update(stats_of(kInf, 1)));
  for (int i = 0; i < 3000; ++i) EXPECT_TRUE(scaler.update(stats_of(1, 1)));
  EXPECT_EQ(scaler.factor(), 128.0);
}

TEST(LossScaler, ANormThatWouldOverflowTheStatesIsNotFinite) {
  LossScaler scaler({}, torch::kFloat32);
  EXPECT_TRUE(scaler.update(stats_of(1, 0.99 * kHighestNorm)));
  EXPECT_FALSE(scaler.update(stats_of(1, kHighestNorm)));
}

TEST(LossScaler, ScalesTheLossAndUnscalesGradients) {
  const LossScaler scaler({.kind = LossScalingKind::kStatic, .initial_scale = 1024},
                          torch::kFloat16);
  EXPECT_EQ(scaler.scale(at::full({}, 3.0)).item<double>(), 3072.0);
  torch::Tensor with = at::ones({4}), without = at::ones({4});
  with.mutable_grad() = at::full({4}, 1.5f);
  scaler.unscale({with, without});
  EXPECT_EQ(with.grad()[2].item<float>(), 1.5f / 1024);  // exact
  EXPECT_FALSE(without.grad().defined());
}

TEST(LossScaler, StateSurvivesJson) {
  LossScaler one({.kind = LossScalingKind::kDynamic}, torch::kFloat16);
  one.update(stats_of(1, kInf));
  one.update(stats_of(1, 1));
  LossScaler two({.kind = LossScalingKind::kDynamic}, torch::kFloat16);
  two.restore(nlohmann::json(one.state()).get<LossScaler::State>());
  EXPECT_EQ(two.factor(), 32768.0);
  EXPECT_EQ(two.state().good_steps, 1);
  LossScaler off({.kind = LossScalingKind::kOff}, torch::kFloat32);
  off.restore(one.state());
  EXPECT_EQ(off.factor(), 1.0);
}

}  // namespace
}  // namespace qlora::trainer
