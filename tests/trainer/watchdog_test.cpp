#include "trainer/watchdog.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::trainer {
namespace {

StepStats good(double loss) {
  return {.loss = loss, .gradient_norm = 1, .applied = true};
}
StepStats bad() {
  return {.loss = std::numeric_limits<double>::quiet_NaN(), .applied = false};
}

std::string error_of(Watchdog& watchdog, const StepStats& stats, bool can_roll_back = false) {
  return testing::refusal_of<ValueError>([&] { watchdog.check(stats, can_roll_back); });
}

TEST(Watchdog, CountsSkippedStepsAndStopsAfterTooManyInARow) {
  Watchdog watchdog({.max_skipped_steps = 3});
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(watchdog.check(bad(), false), Verdict::kGoOn);
    EXPECT_EQ(watchdog.check(bad(), false), Verdict::kGoOn);
    EXPECT_EQ(watchdog.check(good(2), false), Verdict::kGoOn);
  }
  EXPECT_EQ(watchdog.skipped_steps(), 10);
  EXPECT_EQ(error_of(watchdog, bad()), "");
  EXPECT_EQ(error_of(watchdog, bad()), "");
  const std::string error = error_of(watchdog, bad());
  EXPECT_NE(error.find("[trainer] 3 steps in a row"), std::string::npos) << error;
  EXPECT_NE(error.find("lower learning_rate"), std::string::npos) << error;
}

TEST(Watchdog, SaysWhatWasTooMuch) {
  Watchdog watchdog({.max_skipped_steps = 1});
  const std::string finite = error_of(watchdog, {.loss = 5.5, .gradient_norm = 3e+36});
  EXPECT_SAYS(finite, "loss 5.5 and gradient norm 3e+36");
  EXPECT_SAYS(finite, "a norm below 1e+18");
  const double nan = -std::numeric_limits<double>::quiet_NaN();
  const std::string none = error_of(watchdog, {.loss = nan, .gradient_norm = nan});
  EXPECT_SAYS(none, "loss nan and gradient norm nan");
}

TEST(Watchdog, SpikesCountOnceTheWindowIsFull) {
  Watchdog watchdog({.loss_spike_factor = 2, .loss_spike_patience = 2, .loss_window_steps = 4});
  for (const double loss : {2.0, 9.0, 2.0}) watchdog.check(good(loss), false);  // too early
  watchdog.check(good(2), false);
  watchdog.check(good(2), false);
  watchdog.check(good(2), false);
  watchdog.check(good(2), false);                               // mean 2
  EXPECT_EQ(watchdog.check(good(4.0), false), Verdict::kGoOn);  // not above
  for (int i = 0; i < 4; ++i) watchdog.check(good(2), false);   // mean 2 again
  EXPECT_EQ(watchdog.check(good(4.1), false), Verdict::kGoOn);  // the first spike
  EXPECT_EQ(watchdog.check(good(2.0), false), Verdict::kGoOn);  // ends the row
  EXPECT_EQ(watchdog.check(good(4.1), false), Verdict::kGoOn);
  EXPECT_NE(error_of(watchdog, good(5)).find("stayed above 2 times"), std::string::npos);
}

TEST(Watchdog, SpikesDoNotRaiseTheMeanTheyAreMeasuredBy) {
  Watchdog watchdog({.loss_spike_factor = 2, .loss_spike_patience = 9, .loss_window_steps = 2});
  watchdog.check(good(1), false);
  watchdog.check(good(1), false);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(watchdog.check(good(100), false), Verdict::kGoOn);
  EXPECT_NE(error_of(watchdog, good(100)), "");
}

TEST(Watchdog, RollsBackWhereItMayAndStopsWhenItDidTooOften) {
  Watchdog watchdog(
      {.max_skipped_steps = 2, .action = WatchdogAction::kRollBack, .max_rollbacks = 2});
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(watchdog.check(bad(), true), Verdict::kGoOn);
    EXPECT_EQ(watchdog.check(bad(), true), Verdict::kRollBack);
  }
  EXPECT_EQ(watchdog.check(bad(), true), Verdict::kGoOn);
  EXPECT_NE(error_of(watchdog, bad(), true), "");
}

TEST(Watchdog, WithoutACheckpointARollBackIsAStop) {
  Watchdog watchdog({.max_skipped_steps = 1, .action = WatchdogAction::kRollBack});
  EXPECT_NE(error_of(watchdog, bad(), false), "");
}

TEST(Watchdog, WhatIsForgottenIsNoMeasure) {
  Watchdog watchdog({.loss_spike_factor = 2, .loss_spike_patience = 1, .loss_window_steps = 4});
  for (int i = 0; i < 8; ++i) watchdog.check(good(1), false);
  watchdog.forget_losses();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(watchdog.check(good(5), false), Verdict::kGoOn);
}

TEST(Watchdog, StateSurvivesJson) {
  const WatchdogOptions options = {
      .max_skipped_steps = 3, .loss_spike_factor = 1.5, .loss_window_steps = 2};
  Watchdog one(options);
  for (const double loss : {0.1, 0.30000000000000004}) one.check(good(loss), false);
  one.check(bad(), false);
  one.check(bad(), false);
  Watchdog two(options);
  two.restore(nlohmann::json::parse(nlohmann::json(one.state()).dump()).get<Watchdog::State>());
  EXPECT_EQ(two.state().losses, one.state().losses);
  EXPECT_EQ(two.skipped_steps(), 2);
  EXPECT_NE(error_of(two, bad()), "");
}

}  // namespace
}  // namespace qlora::trainer
