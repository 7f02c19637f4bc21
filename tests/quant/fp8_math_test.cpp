#include "quant/fp8_math.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qlora::quant {
namespace {

/// Sign, exponent (bias 7) and 3 bits of mantissa, as the paper defines the format.
double by_definition(int code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  const double sign = code & 128 ? -1 : 1;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  if (exponent == 0) return sign * std::ldexp(mantissa, -9);
  return sign * std::ldexp(8 + mantissa, exponent - 10);
}

TEST(Fp8, EveryCodeHasItsNumberAndComesBack) {
  for (int code = 0; code < 256; ++code) {
    const float value = fp8_to_float(static_cast<uint8_t>(code));
    const double expected = by_definition(code);
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value));
    } else {
      EXPECT_EQ(value, expected) << code;
      EXPECT_EQ(std::signbit(value), code >= 128);
    }
    EXPECT_EQ(float_to_fp8(value), code);
  }
  EXPECT_EQ(fp8_to_float(kFp8MaxCode), kFp8Max);
}

TEST(Fp8, RoundsToTheNearestWithTiesToEvenBetweenAllNeighbours) {
  for (int code = 0; code < kFp8MaxCode; ++code) {
    const float low = fp8_to_float(static_cast<uint8_t>(code));
    const float high = fp8_to_float(static_cast<uint8_t>(code + 1));
    const float middle = (low + high) / 2;  // exact
    const int even = code % 2 == 0 ? code : code + 1;
    for (const float sign : {1.0f, -1.0f}) {
      const int bit = sign < 0 ? 128 : 0;
      EXPECT_EQ(float_to_fp8(sign * middle), even | bit);
      EXPECT_EQ(float_to_fp8(sign * std::nextafter(middle, 0.0f)), code | bit);
      EXPECT_EQ(float_to_fp8(sign * std::nextafter(middle, 1e9f)), (code + 1) | bit);
    }
  }
}

TEST(Fp8, EndsAreHeld) {
  for (const float x : {448.0f, 449.0f, 464.0f, 1e30f, INFINITY}) {
    EXPECT_EQ(float_to_fp8(x), kFp8MaxCode);
    EXPECT_EQ(float_to_fp8(-x), kFp8MaxCode | 128);
  }
  EXPECT_EQ(float_to_fp8(0.0f), 0);
  EXPECT_EQ(float_to_fp8(-0.0f), 128);
  EXPECT_EQ(float_to_fp8(1e-45f), 0);
  EXPECT_EQ(float_to_fp8(NAN) & 127, 127);
}

}  // namespace
}  // namespace qlora::quant
