#pragma once

#include <algorithm>
#include <cstdint>

#include "quant/blockwise8_math.h"

namespace qlora::quant {

/// Nearest code by look-up: the upper 16 bits of |x| name a bucket so narrow that at most one
/// threshold lies in it; the code of its lower end plus one comparison is dynamic_code.
struct CodeBuckets {
  static constexpr int32_t kFirst = (127 - 24) << 7;  // all |x| < 2^-24 share this bucket
  static constexpr int32_t kLast = 127 << 7;          // and all |x| >= 1 this one
  static constexpr int32_t kCount = kLast - kFirst + 1;

  int32_t lowest_code[2 * kCount];  // x >= 0, then x < 0
  float thresholds[256];            // the last is never passed

  explicit CodeBuckets(DynamicMap map) {
    const DynamicTable& table = dynamic_table(map);
    for (int32_t b = 0; b < kCount; ++b) {
      const uint32_t near_zero = b == 0 ? 0 : static_cast<uint32_t>(kFirst + b) << 16;
      const uint32_t far = (static_cast<uint32_t>(kFirst + b + 1) << 16) - 1;
      lowest_code[b] = dynamic_code(table, bits_float(near_zero));
      lowest_code[kCount + b] = dynamic_code(table, b == kCount - 1 ? -2.0f : -bits_float(far));
    }
    std::copy(table.thresholds, table.thresholds + 255, thresholds);
    thresholds[255] = bits_float(kFloatInfinity);
  }
};

inline const CodeBuckets& code_buckets(DynamicMap map) {
  static const CodeBuckets kSigned(DynamicMap::kSigned);
  static const CodeBuckets kUnsigned(DynamicMap::kUnsigned);
  return map == DynamicMap::kSigned ? kSigned : kUnsigned;
}

}  // namespace qlora::quant
