#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "quant/affine_math.h"

namespace qlora::quant {

/// How a rounded number moves with the number and with the scale of its group.
struct AffineSlope {
  float by_weight = 1;  // 1 inside the grid, 0 where the code was cut off
  float by_scale = 0;
};

/// Straight-through slopes of affine_value(affine_code(w)).
///   by_weight   the mask of the clipping, as torch's fake_quantize: 1 where the code needs no cut
///   by_scale    round(w / s) - w / s inside; the code's distance from the zero point where it is
///   cut Source      Bengio et al., arXiv:1308.3432; Esser et al., LSQ, arXiv:1902.08153, equation
///   3
QLORA_HD AffineSlope affine_slope(float w, AffineGrid grid, int64_t bits) {
  const auto top = static_cast<float>(affine_max_code(bits)), zero = static_cast<float>(grid.zero);
  const float steps = w / grid.scale, nearest = std::rint(steps), code = nearest + zero;
  if (code < 0) return {0, -zero};
  if (code > top) return {0, top - zero};
  return {1, nearest - steps};
}

/// The same where codes are found with the grid's scale and multiplied with value_scale, which
/// alone is trained: slopes of value_scale · (code - zero).
///   by_weight   value_scale / scale inside, 0 where the code was cut off
///   by_scale    the code's distance from the zero point
///   Source      Bondarenko et al., LR-QAT, arXiv:2406.06385, section 3
QLORA_HD AffineSlope anchored_slope(float w, AffineGrid grid, float value_scale, int64_t bits) {
  const float inside = affine_slope(w, grid, bits).by_weight;
  const int32_t code = affine_code(w, grid, bits);
  return {inside * (value_scale / grid.scale), static_cast<float>(code - grid.zero)};
}

/// Factor of a learned scale's gradient: 1 / sqrt(weights in the group · largest positive code).
///   Source    Esser et al., LSQ, arXiv:1902.08153, section 2.2
QLORA_HD float lsq_gradient_scale(int64_t group_size, int64_t bits) {
  const int32_t most = affine_max_code(bits) / 2;
  return 1 / std::sqrt(static_cast<float>(group_size) * static_cast<float>(most));
}

}  // namespace qlora::quant
