#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"

namespace qlora::trainer {

inline constexpr int64_t kAdamwBlock = 256;          // 8-bit elements that share one absmax
inline constexpr int64_t kAdamw8MinElements = 4096;  // smaller tensors keep 32-bit states

/// Everything about one update that is the same for all elements, rounded to float once.
struct AdamwStep {
  float beta1, rest1;  // decay of the mean, and 1 - beta1
  float beta2, rest2;  // decay of the mean square, and 1 - beta2
  float epsilon;
  float decay;         // 1 - learning_rate * weight_decay
  float step_size;     // -learning_rate / (1 - beta1^t)
  float inverse_root;  // 1 / sqrt(1 - beta2^t)
};

/// The numbers of update t, counted from 1.
inline AdamwStep adamw_step(double learning_rate, double beta1, double beta2, double epsilon,
                            double weight_decay, int64_t t) {
  const double exponent = static_cast<double>(t);
  return {.beta1 = static_cast<float>(beta1),
          .rest1 = static_cast<float>(1 - beta1),
          .beta2 = static_cast<float>(beta2),
          .rest2 = static_cast<float>(1 - beta2),
          .epsilon = static_cast<float>(epsilon),
          .decay = static_cast<float>(1 - learning_rate * weight_decay),
          .step_size = static_cast<float>(-learning_rate / (1 - std::pow(beta1, exponent))),
          .inverse_root = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, exponent)))};
}

// One element of AdamW: decay first, then the update from this step's unrounded m and v.
//   m <- β1·m + (1 − β1)·g,  v <- β2·v + (1 − β2)·g²
//   p <- p·(1 − η·λ) − η / (1 − β1ᵗ) · m / (sqrt(v) / sqrt(1 − β2ᵗ) + ε)
//   Numerics  bit-exact on every target: each operation rounds once, nothing is fused
//   Source    Loshchilov and Hutter, arXiv:1711.05101, Algorithm 2; order of bitsandbytes' CPU code

QLORA_HD float adamw_mean(float m, float g, const AdamwStep& s) {
  return m * s.beta1 + g * s.rest1;
}

QLORA_HD float adamw_square(float v, float g, const AdamwStep& s) {
  return v * s.beta2 + s.rest2 * g * g;
}

QLORA_HD float adamw_parameter(float p, float m, float v, const AdamwStep& s) {
  return p * s.decay + s.step_size * (m / (std::sqrt(v) * s.inverse_root + s.epsilon));
}

}  // namespace qlora::trainer
