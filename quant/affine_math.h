#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "quant/affine_options.h"
#include "quant/float_math.h"

namespace qlora::quant {

/// w ≈ scale · (code - zero), code in [0, 2^bits). A signed format stores code - 2^(bits-1).
struct AffineGrid {
  float scale = 1;
  int32_t zero = 0;
};

QLORA_HD int32_t affine_max_code(int64_t bits) {
  return (int32_t{1} << bits) - 1;
}

/// A scale as the format holds it. Never 0: the least positive number of the type stands for it.
QLORA_HD float rounded_scale(float scale, ScaleType type) {
  constexpr float kLeastF16 = 0x1p-24f, kLeastNormal = 0x1p-126f;
  if (type == ScaleType::kF16) {
    const float rounded = f16_to_float(float_to_f16(scale));
    return rounded > 0 || !(scale == scale) ? rounded : kLeastF16;
  }
  const float rounded = type == ScaleType::kBF16 ? bf16_to_float(float_to_bf16(scale)) : scale;
  return rounded >= kLeastNormal || !(scale == scale) ? rounded : kLeastNormal;
}

/// Grid of a group whose elements lie in [low, high].
///   Range     low <= high, finite; 0 is taken into the range. A scale beyond the type is inf: the
///             caller's check
///   Zero      within [least_zero, 2^bits - 1]; where the range would ask for less (no negative
///             element), the scale widens so that `high` keeps its code
///   Source    asymmetric and symmetric_full: Frantar et al., GPTQ, arXiv:2210.17323 (quant.py)
QLORA_HD AffineGrid affine_grid(float low, float high, const AffineOptions& o) {
  const int32_t top = affine_max_code(o.bits);
  const auto least = static_cast<int32_t>(o.least_zero);
  low = low < 0 ? low : 0;
  high = high > 0 ? high : 0;
  if (o.rule != GridRule::kAsymmetric) {
    const float most = -low > high ? -low : high;
    const int32_t half = top / 2;
    const float steps =
        o.rule == GridRule::kSymmetric ? static_cast<float>(half) : static_cast<float>(top) * 0.5f;
    return {rounded_scale(most / steps, o.scale_type), half + 1};
  }
  const float scale = rounded_scale((high - low) / static_cast<float>(top), o.scale_type);
  const auto zero = static_cast<int32_t>(std::rint(-low / scale));
  if (zero < least) {
    return {rounded_scale(high / static_cast<float>(top - least), o.scale_type), least};
  }
  return {scale, zero < top ? zero : top};
}

/// Nearest code of w, ties to even multiples of the scale; outside the grid its nearer end.
QLORA_HD uint8_t affine_code(float w, AffineGrid grid, int64_t bits) {
  const auto top = static_cast<float>(affine_max_code(bits));
  const float code = std::rint(w / grid.scale) + static_cast<float>(grid.zero);
  return static_cast<uint8_t>(code > 0 ? (code < top ? code : top) : 0);
}

/// One rounding: the difference of codes is exact.
QLORA_HD float affine_value(uint8_t code, AffineGrid grid) {
  return static_cast<float>(static_cast<int32_t>(code) - grid.zero) * grid.scale;
}

}  // namespace qlora::quant
