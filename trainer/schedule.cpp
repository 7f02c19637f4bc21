#include "trainer/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qlora::trainer {

int64_t warmup_steps(const ScheduleOptions& options, int64_t total_steps) {
  if (options.kind == ScheduleKind::kConstant) return 0;
  if (options.warmup_steps > 0) return options.warmup_steps;
  return static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * options.warmup_ratio));
}

double learning_rate(const ScheduleOptions& options, double peak, int64_t step,
                     int64_t total_steps) {
  const int64_t warmup = warmup_steps(options, total_steps);
  if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const double falling = static_cast<double>(std::max<int64_t>(1, total_steps - warmup));
  switch (options.kind) {
    case ScheduleKind::kConstant:
    case ScheduleKind::kConstantWithWarmup:
      return peak;
    case ScheduleKind::kLinear:
      return peak * std::max(0.0, static_cast<double>(total_steps - step) / falling);
    case ScheduleKind::kCosine: {
      const double progress = std::min(1.0, static_cast<double>(step - warmup) / falling);
      return peak * std::max(0.0, 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
    }
  }
  return peak;
}

}  // namespace qlora::trainer
