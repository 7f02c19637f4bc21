#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "trainer/adamw_math.h"
#include "trainer/step_stats.h"

namespace qlora::trainer {

/// The numbers of one update, in memory of the tensors' device: what changes from step to step is
/// read there, so that a captured CUDA graph is replayed as it is.
struct UpdateScalars {
  // Written before the step.
  AdamwStep step;
  float unscale;    // 1 / loss scale
  double max_norm;  // gradients are scaled down to it; 0: never
  // Written by gradient_norm, read by the update.
  double norm;      // of the unscaled gradients, before clipping
  float clip;       // factor of the unscaled gradients
  int32_t applied;  // 0: the loss or a gradient is not finite, nothing is updated
};

inline constexpr double kNormEpsilon = 1e-6;  // as torch: a norm of 0 must not divide

/// Fills norm, clip and applied from the sum of squares.
///   loss      of the step, or null
///   Source    torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6))
QLORA_HD void finish_norm(double sum_of_squares, const float* loss, UpdateScalars& s) {
  s.norm = std::sqrt(sum_of_squares);
  const bool loss_is_finite = loss == nullptr || *loss - *loss == 0;
  s.applied = loss_is_finite && s.norm < kHighestNorm ? 1 : 0;  // NaN: the comparison fails
  const bool clips = s.applied != 0 && s.max_norm > 0 && s.norm > s.max_norm;
  s.clip = clips ? static_cast<float>(s.max_norm / (s.norm + kNormEpsilon)) : 1.0f;
}

/// A gradient as the update takes it: each product is rounded.
QLORA_HD float scaled_gradient(float g, const UpdateScalars& s) {
  return g * s.unscale * s.clip;
}

}  // namespace qlora::trainer
