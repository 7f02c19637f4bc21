#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace qlora::testing {

/// The 8-bit quantizer of bitsandbytes 0.50.2 on the CPU, for replaying its results: a table of
/// 65,536 bins over [-1, 1] whose entries are nearest codes of the bins, not of the numbers.
class BnbLookup8 {
 public:
  explicit BnbLookup8(std::span<const float> levels) : table_(65536) {
    for (int bin = 0; bin < 65536; ++bin) {
      const float value = -1.0f + 2.0f * static_cast<float>(bin) / 65535.0f;
      const auto above = [&](int code) { return 0.5f * (levels[code] + levels[code + 1]) < value; };
      int code = 0;
      while (code < 255 && above(code)) ++code;
      table_[bin] = static_cast<uint8_t>(code);
    }
  }

  /// One block; returns its absmax.
  float quantize(std::span<const float> block, std::span<uint8_t> codes) const {
    float absmax = 0;
    for (const float x : block) absmax = std::max(absmax, std::fabs(x));
    const float inverse = 1.0f / absmax;
    for (size_t i = 0; i < block.size(); ++i) {
      if (absmax == 0) {
        codes[i] = 0;
        continue;
      }
      const float scaled = std::clamp(block[i] * inverse, -1.0f, 1.0f);
      const float bin = (scaled + 1.0f) * 0.5f * 65535.0f + 0.5f;
      codes[i] = table_[static_cast<uint16_t>(bin)];
    }
    return absmax;
  }

 private:
  std::vector<uint8_t> table_;
};

}  // namespace qlora::testing
