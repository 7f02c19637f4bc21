#pragma once

#include <cmath>
#include <cstdint>

namespace qlora::trainer {

/// A gradient beyond this norm counts as not finite: its square would overflow AdamW's states.
inline constexpr double kHighestNorm = 1e18;

/// What one optimizer step did. A step that was skipped is a value here, not an exception.
struct StepStats {
  double learning_rate = 0;
  double loss = 0;           // mean negative log likelihood of the step's target tokens, nats
  double gradient_norm = 0;  // over all adapters, before clipping
  double loss_scale = 1;     // that the gradients were made with
  bool applied = false;      // false: loss or gradient not finite, parameters unchanged
  int64_t tokens = 0;
  int64_t target_tokens = 0;

  bool is_finite() const { return std::isfinite(loss) && gradient_norm < kHighestNorm; }
};

}  // namespace qlora::trainer
