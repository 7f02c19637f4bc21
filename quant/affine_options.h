#pragma once

#include <cstdint>
#include <utility>

#include "core/constraint.h"
#include "core/fields.h"

namespace qlora::quant {

/// How the range of a group becomes scale and zero point.
enum class GridRule {
  kAsymmetric,     // scale (max - min) / (2^b - 1), the range includes 0, any zero point
  kSymmetric,      // scale max|w| / (2^(b-1) - 1), zero point 2^(b-1): the lowest code is not used
  kSymmetricFull,  // scale 2 max|w| / (2^b - 1), zero point 2^(b-1): GPTQ's rule
};

/// Number type that a format stores scales in. A scale is rounded to it before it is used.
enum class ScaleType { kF16, kBF16, kF32 };

/// The grid that a weight matrix is rounded to.
struct AffineOptions {
  int64_t bits = 4;          // 2, 3, 4 or 8
  int64_t group_size = 128;  // columns that share a scale; -1: the whole row
  GridRule rule = GridRule::kAsymmetric;
  ScaleType scale_type = ScaleType::kF16;
  int64_t least_zero = 0;  // smallest zero point that the format can hold (GPTQ v1: 1)
};

}  // namespace qlora::quant

template <>
struct qlora::EnumNames<qlora::quant::GridRule> {
  using E = qlora::quant::GridRule;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kAsymmetric, "asymmetric"},
                                                         {E::kSymmetric, "symmetric"},
                                                         {E::kSymmetricFull, "symmetric_full"}};
};
template <>
struct qlora::EnumNames<qlora::quant::ScaleType> {
  using E = qlora::quant::ScaleType;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kF16, "fp16"}, {E::kBF16, "bf16"}, {E::kF32, "fp32"}};
};
