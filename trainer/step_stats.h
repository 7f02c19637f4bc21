#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace qlora::trainer {

/// A gradient beyond this norm counts as not finite: its square would overflow AdamW's states.
inline constexpr double kHighestNorm = 1e18;

/// What one optimizer step did. A step that was skipped is a value here, not an exception.
struct StepStats {
  double learning_rate = 0;
  double loss = 0;           // mean negative log likelihood of the step's target tokens, nats
  double gradient_norm = 0;  // over all adapters, before clipping
  double loss_scale = 1;     // that the gradients were made with
  bool applied = false;      // false: is_finite() does not hold, parameters unchanged
  int64_t tokens = 0;
  int64_t target_tokens = 0;

  bool is_finite() const { return std::isfinite(loss) && gradient_norm < kHighestNorm; }
};

/// A NaN without its sign, which says nothing and is printed as "-nan"; other values as they are.
inline double without_nan_sign(double value) {
  return std::isnan(value) ? std::numeric_limits<double>::quiet_NaN() : value;
}

}  // namespace qlora::trainer
