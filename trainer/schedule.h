#pragma once

#include <cstdint>

#include "trainer/train_options.h"

namespace qlora::trainer {

/// Steps over which the rate rises from 0: warmup_steps, else warmup_ratio of all steps, rounded
/// up.
int64_t warmup_steps(const ScheduleOptions& options, int64_t total_steps);

/// Learning rate of step number `step`, counted from 0.
///   peak      the rate at the end of the warmup
///   Warmup    peak·step / warmup, so that a run with warmup begins with a rate of 0
///   Linear    peak·(total − step) / (total − warmup)
///   Cosine    peak·(1 + cos(π·(step − warmup) / (total − warmup))) / 2
///   Source    transformers 5.23, optimization.py; steps beyond the last give 0
double learning_rate(const ScheduleOptions& options, double peak, int64_t step,
                     int64_t total_steps);

}  // namespace qlora::trainer
