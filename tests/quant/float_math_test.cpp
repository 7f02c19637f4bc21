#include "quant/float_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace qlora::quant {
namespace {

// The compiler's own half type, an independent implementation of IEEE 754 binary16.
uint16_t compiler_f16(float x) {
  const auto half = static_cast<_Float16>(x);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}

float compiler_f16_to_float(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
}

/// Nearest bf16 by exact comparison with both neighbours.
uint16_t brute_bf16(float x) {
  const auto cut = static_cast<uint16_t>(float_bits(x) >> 16);
  const double low = bf16_to_float(cut);
  const auto next = static_cast<uint16_t>(cut + 1);
  // Past the greatest number stands 2^128 (rounding to infinity), which a float does not hold.
  const double high = (next & 0x7FFF) == 0x7F80 ? std::copysign(0x1p128, low)
                                                : static_cast<double>(bf16_to_float(next));
  const double to_low = std::abs(x - low);
  const double to_high = std::abs(high - x);
  if (to_low != to_high) return to_low < to_high ? cut : next;
  return cut % 2 == 0 ? cut : next;
}

TEST(FloatMath, EveryF16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = f16_to_float(half);
    if ((half & 0x7FFF) > 0x7C00) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(value)))) << bits;
    } else {
      EXPECT_EQ(float_bits(value), float_bits(compiler_f16_to_float(half))) << bits;
      EXPECT_EQ(float_to_f16(value), half) << bits;
    }
  }
}

TEST(FloatMath, EveryBf16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = bf16_to_float(half);
    EXPECT_EQ(float_bits(value), bits << 16);
    EXPECT_EQ(float_to_bf16(value), std::isnan(value) ? 0x7FC0 : half) << bits;
  }
}

TEST(FloatMath, F16TiesAndTheirNeighboursRoundAsTheCompilersHalf) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const float low = f16_to_float(static_cast<uint16_t>(bits));
    const float high = bits == 0x7BFF ? 65536.0f : f16_to_float(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact
    for (const float magnitude :
         {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      for (const float x : {magnitude, -magnitude}) {
        ASSERT_EQ(float_to_f16(x), compiler_f16(x)) << x;
      }
    }
  }
}

TEST(FloatMath, Bf16TiesAndTheirNeighboursGoToTheNearestThenToEven) {
  for (uint32_t bits = 0; bits < 0x7F80; ++bits) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      for (const uint32_t sign : {0u, kFloatSignBit}) {
        const float x = bits_float(sign | bits << 16 | low);
        ASSERT_EQ(float_to_bf16(x), brute_bf16(x)) << x;
      }
    }
  }
}

TEST(FloatMath, RandomBitPatternsRoundRight) {
  std::mt19937 random(1);
  for (int i = 0; i < 2'000'000; ++i) {
    const float x = bits_float(static_cast<uint32_t>(random()));
    if (std::isnan(x)) {
      ASSERT_TRUE(std::isnan(f16_to_float(float_to_f16(x))));
      ASSERT_EQ(float_to_bf16(x), 0x7FC0);
      continue;
    }
    ASSERT_EQ(float_to_f16(x), compiler_f16(x)) << x;
    if (std::isfinite(x)) {
      ASSERT_EQ(float_to_bf16(x), brute_bf16(x)) << x;
    }
  }
}

TEST(FloatMath, FiniteBitsAreToldFromTheRest) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {0.0f, -0.0f, 1e-45f, std::numeric_limits<float>::max()}) {
    EXPECT_TRUE(is_finite_bits(float_bits(x)));
    EXPECT_TRUE(is_finite_bits(float_bits(-x)));
  }
  for (const float x : {infinity, -infinity, std::nanf(""), -std::nanf("")}) {
    EXPECT_FALSE(is_finite_bits(float_bits(x)));
  }
}

}  // namespace
}  // namespace qlora::quant
