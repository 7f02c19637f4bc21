#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "quant/float_math.h"

namespace qlora::quant {

/// Which 256 levels an 8-bit code selects: the dynamic maps of bitsandbytes.
enum class DynamicMap : uint8_t {
  kSigned,    // -0.993 … 1; code 127 is 0
  kUnsigned,  // 0 … 1; code 0 is 0
};

/// Whether a value that rounds to level 0 may lose its sign.
enum class SignRule : uint8_t {
  kNearest,  // the nearest code, nothing else
  kKeep,     // a negative value never becomes 0: it takes the next code down (optimizer's m)
};

/// Levels in rising order, and between each two the greatest float that is not above their exact
/// midpoint: x is nearer to level c + 1 than to level c exactly where x > thresholds[c].
struct DynamicTable {
  float levels[256];
  float thresholds[255];
};

namespace detail {

/// Greatest float <= the exact midpoint of a < b (which a double holds).
QLORA_HD constexpr float midpoint_below(float a, float b) {
  const double exact = (static_cast<double>(a) + static_cast<double>(b)) / 2;
  const float nearest = static_cast<float>(exact);
  if (static_cast<double>(nearest) <= exact) return nearest;
  float low = a;  // bisect: nextafter is not constexpr
  float high = nearest;
  for (;;) {
    const float middle =
        static_cast<float>((static_cast<double>(low) + static_cast<double>(high)) / 2);
    if (middle <= low || middle >= high) return low;
    if (static_cast<double>(middle) <= exact) {
      low = middle;
    } else {
      high = middle;
    }
  }
}

/// Seven decades 10^-6 … 10^0. Decade i is cut into n = 2^i (unsigned: 2^(i+1)) equal steps of
/// [0.1, 1], and the middle of each step is a level; 0 and 1 complete the map.
///   Rounding  as torch.linspace does on the CPU: start + k * step below the middle of the range,
///             end - (n - k) * step above, each rounded once
///   Source    Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861,
///             section 2.1 (dynamic tree quantization)
QLORA_HD constexpr DynamicTable make_dynamic_table(DynamicMap map) {
  const bool is_signed = map == DynamicMap::kSigned;
  DynamicTable table = {};
  int next = is_signed ? 127 : 0;
  table.levels[next++] = 0.0f;
  const float scales[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  for (int decade = 0; decade < 7; ++decade) {
    const int steps = 1 << (is_signed ? decade : decade + 1);
    const float step = (1.0f - 0.1f) / static_cast<float>(steps);
    float previous = 0;
    for (int k = 0; k <= steps; ++k) {
      const double edge = k < (steps + 1) / 2
                              ? static_cast<double>(0.1f) + static_cast<double>(step) * k
                              : 1.0 - static_cast<double>(step) * (steps - k);
      const float bound = static_cast<float>(edge);
      if (k > 0) table.levels[next++] = scales[decade] * ((previous + bound) / 2.0f);
      previous = bound;
    }
  }
  table.levels[next] = 1.0f;
  for (int i = 1; is_signed && i <= 127; ++i) table.levels[127 - i] = -table.levels[127 + i];
  for (int c = 0; c < 255; ++c) {
    table.thresholds[c] = midpoint_below(table.levels[c], table.levels[c + 1]);
  }
  return table;
}

}  // namespace detail

QLORA_HD const DynamicTable& signed_dynamic_table() {
  static constexpr DynamicTable kTable = detail::make_dynamic_table(DynamicMap::kSigned);
  return kTable;
}

QLORA_HD const DynamicTable& unsigned_dynamic_table() {
  static constexpr DynamicTable kTable = detail::make_dynamic_table(DynamicMap::kUnsigned);
  return kTable;
}

QLORA_HD const DynamicTable& dynamic_table(DynamicMap map) {
  return map == DynamicMap::kSigned ? signed_dynamic_table() : unsigned_dynamic_table();
}

/// Code of the level nearest to x, in exact arithmetic.
///   Range     any x; beyond the map's ends the end codes; NaN: no comparison holds, code 0
///   Ties      to the lower code
QLORA_HD uint8_t dynamic_code(const DynamicTable& table, float x) {
  int code = 0;
  for (int step = 128; step > 0; step /= 2) {
    if (x > table.thresholds[code + step - 1]) code += step;
  }
  return static_cast<uint8_t>(code);
}

/// What turns the elements of a block into [-1, 1] (a hair over 1 where the product rounds up).
///   Source    bitsandbytes: x * (1 / absmax) in f32
///   Tiny      where 1 / absmax overflows (absmax < 2.94e-39; NaN in bitsandbytes), x / absmax
struct Blockwise8Scale {
  float absmax;
  float inverse;  // 0: divide
};

QLORA_HD Blockwise8Scale blockwise8_scale(float absmax) {
  const float inverse = 1.0f / absmax;
  return {absmax, is_finite_bits(float_bits(inverse)) ? inverse : 0.0f};
}

QLORA_HD float blockwise8_normalize(float x, Blockwise8Scale scale) {
  return scale.inverse != 0 ? x * scale.inverse : x / scale.absmax;
}

/// Code of element x of a block: the nearest.
///   Zeros     in an all-zero block every code stands for 0; it is 0, as in bitsandbytes
QLORA_HD uint8_t blockwise8_code(const DynamicTable& table, float x, Blockwise8Scale scale,
                                 SignRule rule) {
  if (scale.absmax == 0) return 0;
  const uint8_t code = dynamic_code(table, blockwise8_normalize(x, scale));
  return rule == SignRule::kKeep && x < 0 && code > 0 && table.levels[code] == 0
             ? static_cast<uint8_t>(code - 1)
             : code;
}

/// level(code) * absmax of the element's block.
QLORA_HD float blockwise8_value(const DynamicTable& table, uint8_t code, float absmax) {
  return table.levels[code] * absmax;
}

}  // namespace qlora::quant
