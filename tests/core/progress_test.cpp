#include "core/progress.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qlora {
namespace {

TEST(Texts, Durations) {
  EXPECT_EQ(duration_text(0), "0.0s");
  EXPECT_EQ(duration_text(9.94), "9.9s");
  EXPECT_EQ(duration_text(9.96), "10s");
  EXPECT_EQ(duration_text(59.4), "59s");
  EXPECT_EQ(duration_text(59.6), "1m00s");
  EXPECT_EQ(duration_text(192), "3m12s");
  EXPECT_EQ(duration_text(3599.6), "1h00m");
  EXPECT_EQ(duration_text(7500), "2h05m");
  EXPECT_EQ(duration_text(86400 * 3 + 3600 * 4), "3d04h");
  EXPECT_EQ(duration_text(-1), "?");
  EXPECT_EQ(duration_text(std::nan("")), "?");
  EXPECT_EQ(duration_text(1e300), "forever");
}

TEST(Texts, Bytes) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1000), "1 kB");
  EXPECT_EQ(bytes_text(812'400'000), "812 MB");
  EXPECT_EQ(bytes_text(999'600'000), "1.0 GB");
  EXPECT_EQ(bytes_text(1'340'000'000), "1.3 GB");
  EXPECT_EQ(bytes_text(139'000'000'000), "139 GB");
}

TEST(Texts, Rates) {
  EXPECT_EQ(rate_text(0.42), "0.42");
  EXPECT_EQ(rate_text(7.31), "7.3");
  EXPECT_EQ(rate_text(231.4), "231");
  EXPECT_EQ(rate_text(12440), "12.4k");
}

TEST(ProgressMeter, GuessesNothingBeforeTheFirstStep) {
  ProgressMeter meter(60, 10);
  EXPECT_EQ(meter.step(), 10);
  EXPECT_FALSE(meter.seconds_left().has_value());
  EXPECT_EQ(meter.tokens_per_second(), 0);
  EXPECT_EQ(meter.line(2.134, 0), "step 10/60 · loss 2.13");
}

TEST(ProgressMeter, MeasuresRateAndTimeLeft) {
  ProgressMeter meter(60);
  for (int i = 0; i < 12; ++i) meter.add_step(4.0, 924);
  EXPECT_EQ(meter.tokens_per_second(), 231);
  EXPECT_EQ(meter.seconds_left(), 192.0);
  EXPECT_EQ(meter.line(2.134, 812'000'000),
            "step 12/60 · loss 2.13 · 231 tok/s · 812 MB · 3m12s left");
}

TEST(ProgressMeter, OnePauseDoesNotMoveTheTimeLeft) {
  ProgressMeter meter(100);
  for (int i = 0; i < 9; ++i) meter.add_step(1.0, 10);
  meter.add_step(3600.0, 10);  // the machine slept
  EXPECT_EQ(meter.seconds_left(), 90.0);
}

TEST(ProgressMeter, ForgetsOldSteps) {
  ProgressMeter meter(1000);
  for (int i = 0; i < 100; ++i) meter.add_step(5.0, 10);
  for (int i = 0; i < 32; ++i) meter.add_step(1.0, 10);
  EXPECT_EQ(meter.tokens_per_second(), 10);
  EXPECT_EQ(meter.seconds_left(), 1000.0 - 132);
}

TEST(ProgressMeter, NeverPromisesNegativeTime) {
  ProgressMeter meter(1);
  meter.add_step(1, 1);
  meter.add_step(3, 1);
  EXPECT_EQ(meter.seconds_left(), 0.0);
}

}  // namespace
}  // namespace qlora
