#pragma once

#include <torch/types.h>

#include <vector>

#include "trainer/step_stats.h"

namespace qlora::trainer {

/// Reads the step's loss and gradient norm, and scales the gradients down to max_norm.
///   parameters  those whose .grad is defined take part; the norm is over all of them together
///   max_norm    0: measure only
///               they lie on the CPU: on a device one launch does all of it (DeviceAdamW)
///   loss        scalar on the CPU
///   returns     stats with loss and gradient_norm filled
///   Order       sums are taken in double in one fixed order, whatever the thread count
///               (trainer/gradient_norm_backend.h)
///   Source      torch.nn.utils.clip_grad_norm_: factor min(1, max_norm / (norm + 1e-6))
StepStats clip_gradient_norm(const std::vector<torch::Tensor>& parameters, double max_norm,
                             const torch::Tensor& loss, StepStats stats = {});

}  // namespace qlora::trainer
