#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "quant/float_math.h"

namespace qlora::quant {

// Blocks of GGUF files as llama.cpp lays them out. On disk: do not change.
struct Q8_0Block {  // w = d · q
  uint16_t d;       // FP16
  int8_t q[32];
};
struct Q4_0Block {  // w = d · (q - 8)
  uint16_t d;       // FP16
  uint8_t q[16];    // byte j: element j low, element j + 16 high
};
struct Q4_KBlock {     // w = d · scale_j · q - dmin · min_j for sub-block j of 32
  uint16_t d, dmin;    // FP16
  uint8_t scales[12];  // eight 6-bit scales and minima, see q4_k_put_scale
  uint8_t q[128];      // byte 32k + i: element i of sub-block 2k low, of 2k + 1 high
};
static_assert(sizeof(Q8_0Block) == 34 && sizeof(Q4_0Block) == 18 && sizeof(Q4_KBlock) == 144);

inline constexpr int kQ4_KSubBlocks = 8;
inline constexpr int kSubBlock = 32;

/// 32 floats to one block: d = max|w| / 127, q the nearest, ties away from zero.
///   Range     finite, |w| / 127 within FP16
///   Numerics  byte for byte llama.cpp's reference quantizer: codes by the unrounded d
QLORA_HD void encode_q8_0(const float* w, Q8_0Block* out) {
  float most = 0;
  for (int i = 0; i < 32; ++i) most = std::fabs(w[i]) > most ? std::fabs(w[i]) : most;
  const float d = most / 127.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  out->d = float_to_f16(d);
  for (int i = 0; i < 32; ++i) out->q[i] = static_cast<int8_t>(std::round(w[i] * inverse));
}

/// 32 floats to one block: the element of largest magnitude gets the code 0, d = it / -8.
///   Numerics  byte for byte llama.cpp's reference quantizer, the first of equal magnitudes counts
QLORA_HD void encode_q4_0(const float* w, Q4_0Block* out) {
  float most = 0, extreme = 0;
  for (int i = 0; i < 32; ++i) {
    if (std::fabs(w[i]) > most) {
      most = std::fabs(w[i]);
      extreme = w[i];
    }
  }
  const float d = extreme / -8.0f;
  const float inverse = d != 0 ? 1.0f / d : 0.0f;
  out->d = float_to_f16(d);
  for (int i = 0; i < 16; ++i) {
    const auto low = static_cast<int>(w[i] * inverse + 8.5f);
    const auto high = static_cast<int>(w[i + 16] * inverse + 8.5f);
    out->q[i] = static_cast<uint8_t>((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
  }
}

/// Line through codes: w ≈ scale · q - low, q in [0, 15], scale and low not negative.
struct Q4_KLine {
  float scale = 0, low = 0;
};

/// Nearest code, ties to even: 2^23 + x has no bits left for a fraction. A function of the library
/// would not be vectorised.
QLORA_HD float q4_k_code(float w, Q4_KLine line) {
  float code = (w + line.low) / line.scale;
  code = code > 0.0f ? code : 0.0f;
  code = code < 15.0f ? code : 15.0f;
  return (code + 0x1p23f) - 0x1p23f;
}

/// Weighted squared error of 32 elements on a line. A scale of 0 means that all codes are 0.
QLORA_HD float q4_k_error(const float* w, const float* weight, Q4_KLine line) {
  float part[kSubBlock];
  for (int i = 0; i < kSubBlock; ++i) {
    const float code = line.scale > 0 ? q4_k_code(w[i], line) : 0.0f;
    const float difference = line.scale * code - line.low - w[i];
    part[i] = weight[i] * difference * difference;
  }
  for (int half = kSubBlock / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

/// The line of least weighted squares through (code i, w[i]); false where the codes are all equal.
QLORA_HD bool q4_k_fit(const float* w, const float* weight, const float* codes, Q4_KLine* line) {
  float s = 0, sx = 0, sl = 0, sll = 0, sxl = 0;
  for (int i = 0; i < kSubBlock; ++i) {
    const float l = codes[i];
    s += weight[i];
    sx += weight[i] * w[i];
    sl += weight[i] * l;
    sll += weight[i] * l * l;
    sxl += weight[i] * l * w[i];
  }
  const float determinant = s * sll - sl * sl;
  if (!(determinant > 0)) return false;
  line->scale = (s * sxl - sx * sl) / determinant;
  line->low = (sl * sxl - sll * sx) / determinant;
  if (line->low < 0) *line = {sxl / sll, 0};  // the format subtracts: no offset above zero
  return line->scale > 0;
}

/// Importance of each element of a sub-block in its error: root mean square plus magnitude.
QLORA_HD void q4_k_weights(const float* w, float* weight) {
  float sum = 0;
  for (int i = 0; i < kSubBlock; ++i) sum += w[i] * w[i];
  const float mean = std::sqrt(sum / kSubBlock);
  for (int i = 0; i < kSubBlock; ++i) weight[i] = mean + std::fabs(w[i]);
}

inline constexpr int kQ4_KSearchSteps = 24;

/// Search over the number of steps that the range is cut into (15 - 1.2 … 15 + 1.2), each followed
/// by a least-squares fit: the line of least error.
QLORA_HD Q4_KLine q4_k_line(const float* w, const float* weight) {
  float low = 0, high = w[0];
  for (int i = 0; i < kSubBlock; ++i) {
    low = w[i] < low ? w[i] : low;
    high = w[i] > high ? w[i] : high;
  }
  if (!(high > low)) return {0, -low};
  Q4_KLine best{(high - low) / 15.0f, -low};
  float least = q4_k_error(w, weight, best);
  for (int step = 0; step <= kQ4_KSearchSteps; ++step) {
    const float levels = 13.8f + 0.1f * static_cast<float>(step);
    const Q4_KLine trial{(high - low) / levels, -low};
    float codes[kSubBlock];
    for (int i = 0; i < kSubBlock; ++i) codes[i] = q4_k_code(w[i], trial);
    Q4_KLine fitted;
    if (!q4_k_fit(w, weight, codes, &fitted)) continue;
    const float error = q4_k_error(w, weight, fitted);
    if (error < least) {
      least = error;
      best = fitted;
    }
  }
  return best;
}

/// Writes the 6-bit scale and minimum of sub-block j into 12 bytes that were 0.
QLORA_HD void q4_k_put_scale(int j, int scale, int min, uint8_t* scales) {
  if (j < 4) {
    scales[j] = static_cast<uint8_t>(scales[j] | scale);
    scales[j + 4] = static_cast<uint8_t>(scales[j + 4] | min);
    return;
  }
  scales[j + 4] = static_cast<uint8_t>((scale & 15) | (min & 15) << 4);
  scales[j - 4] = static_cast<uint8_t>(scales[j - 4] | (scale >> 4) << 6);
  scales[j] = static_cast<uint8_t>(scales[j] | (min >> 4) << 6);
}

/// 6-bit scale and minimum whose line has the least error, among the nearest of the line that is
/// wanted and their neighbours.
QLORA_HD Q4_KLine q4_k_round_line(const float* w, const float* weight, Q4_KLine wanted, float d,
                                  float dmin, int* scale, int* min) {
  int near_scale = d > 0 ? static_cast<int>(std::rint(wanted.scale / d)) : 0;
  int near_min = dmin > 0 ? static_cast<int>(std::rint(wanted.low / dmin)) : 0;
  near_scale = near_scale < 63 ? near_scale : 63;
  near_min = near_min < 63 ? near_min : 63;
  Q4_KLine best;
  float least = -1;
  for (int s = near_scale - 1; s <= near_scale + 1; ++s) {
    for (int m = near_min - 1; m <= near_min + 1; ++m) {
      if (s < 0 || s > 63 || m < 0 || m > 63) continue;
      const Q4_KLine line{d * static_cast<float>(s), dmin * static_cast<float>(m)};
      const float error = q4_k_error(w, weight, line);
      if (least >= 0 && !(error < least)) continue;
      least = error;
      best = line;
      *scale = s;
      *min = m;
    }
  }
  return best;
}

/// 256 floats to one block.
///   Range     finite, within FP16
///   Error     the weighted squares (q4_k_weights) are at most those of the same line rounded to
///             the nearest 6-bit scale and minimum: the search includes it
///   Numerics  bit-exact on every target: sums in one fixed order
QLORA_HD void encode_q4_k(const float* w, Q4_KBlock* out) {
  float weight[256];
  Q4_KLine lines[kQ4_KSubBlocks];
  float most_scale = 0, most_low = 0;
  for (int j = 0; j < kQ4_KSubBlocks; ++j) {
    q4_k_weights(w + 32 * j, weight + 32 * j);
    lines[j] = q4_k_line(w + 32 * j, weight + 32 * j);
    most_scale = lines[j].scale > most_scale ? lines[j].scale : most_scale;
    most_low = lines[j].low > most_low ? lines[j].low : most_low;
  }
  *out = {};
  out->d = float_to_f16(most_scale / 63.0f);
  out->dmin = float_to_f16(most_low / 63.0f);
  const float d = f16_to_float(out->d), dmin = f16_to_float(out->dmin);
  for (int j = 0; j < kQ4_KSubBlocks; ++j) {
    int scale = 0, min = 0;
    const Q4_KLine line =
        q4_k_round_line(w + 32 * j, weight + 32 * j, lines[j], d, dmin, &scale, &min);
    q4_k_put_scale(j, scale, min, out->scales);
    for (int i = 0; i < kSubBlock; ++i) {
      const int code = line.scale > 0 ? static_cast<int>(q4_k_code(w[32 * j + i], line)) : 0;
      out->q[32 * (j / 2) + i] =
          static_cast<uint8_t>(out->q[32 * (j / 2) + i] | code << 4 * (j % 2));
    }
  }
}

}  // namespace qlora::quant
