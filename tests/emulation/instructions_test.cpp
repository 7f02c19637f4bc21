// What translated instructions compute, against the project's own arithmetic or plain definitions.
#include <gtest/gtest.h>

#include <cfenv>
#include <cmath>
#include <limits>
#include <random>

#include "quant/float_math.h"
#include "tests/emulation/device/arithmetic.h"
#include "tests/emulation/device/bits.h"
#include "tests/emulation/device/compare.h"
#include "tests/emulation/device/rounding.h"

namespace qlora::emulation {
namespace {

bool same(float a, float b) {
  return std::bit_cast<b32>(a) == std::bit_cast<b32>(b);
}

TEST(EmulatedHalf, EveryHalfWidensExactly) {
  for (b32 bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<b16>(bits);
    const float from_f16 = widen(f16{half}), from_bf16 = widen(bf16{half});
    if (std::isnan(from_f16)) {
      EXPECT_TRUE(std::isnan(quant::f16_to_float(half)));
    } else {
      ASSERT_TRUE(same(from_f16, quant::f16_to_float(half))) << bits;
    }
    ASSERT_TRUE(same(from_bf16, quant::bf16_to_float(half))) << bits;
  }
}

/// Every half, its neighbours' midpoints and what lies just beside them.
TEST(EmulatedHalf, NarrowingRoundsToNearestEven) {
  for (b32 bits = 0; bits < 0x7C00; ++bits) {
    const float here = quant::f16_to_float(static_cast<b16>(bits)),
                next = quant::f16_to_float(static_cast<b16>(bits + 1));
    const float middle = std::isfinite(next) ? here + (next - here) / 2 : 65520.0f;
    for (const float x :
         {here, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      ASSERT_EQ(narrow<f16>(x).bits, quant::float_to_f16(x)) << x;
      ASSERT_EQ(narrow<f16>(-x).bits, quant::float_to_f16(-x)) << x;
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const float x = std::bit_cast<float>(static_cast<b32>(random()));
    if (std::isnan(x)) continue;
    ASSERT_EQ(narrow<bf16>(x).bits, quant::float_to_bf16(x)) << x;
    ASSERT_EQ(narrow<f16>(x).bits, quant::float_to_f16(x)) << x;
  }
}

/// One rounding: a long double holds the product and, for numbers of like size, the sum exactly.
TEST(EmulatedHalf, FusedRoundsOnce) {
  std::mt19937 random(2);
  const auto half_near_one = [&] {
    return f16{static_cast<b16>(0x3000 + random() % 0x1400)};
  };  // [2^-3, 4)
  for (int i = 0; i < 100000; ++i) {
    const f16 a = half_near_one(), b = half_near_one(), c = half_near_one();
    const double exact = static_cast<double>(widen(a)) * widen(b) + widen(c);  // 22 + 13 bits
    ASSERT_EQ(fused(a, b, c).bits, narrow<f16>(exact).bits);
  }
  // The sum needs more bits than a double has: 1 + 2^-11 is a tie that 2^-48 breaks.
  const f16 one{0x3C00}, tiny{0x0001};
  EXPECT_EQ(fused(tiny, tiny, one).bits, one.bits);
  const f16 big{0x7BFF};  // 65504
  EXPECT_EQ(fused(big, one, tiny).bits, big.bits);
}

TEST(EmulatedArithmetic, IntegersWrapAndDivideAsDocumented) {
  EXPECT_EQ(add<b32>(0xFFFFFFFF, 1), 0u);
  EXPECT_EQ(multiply_lo<s32>(0x10000, 0x10000), 0);
  EXPECT_EQ(multiply_hi<b32>(0x80000000u, 4), 2u);
  EXPECT_EQ(multiply_hi<s32>(-1, 1), -1);
  EXPECT_EQ(multiply_wide<s32>(-2, 3), -6);
  EXPECT_EQ(multiply_wide<b32>(0xFFFFFFFFu, 2), 0x1FFFFFFFEull);
  EXPECT_EQ(divide<b32>(7, 0), 0xFFFFFFFFu);
  EXPECT_EQ(divide<s32>(std::numeric_limits<s32>::min(), -1), std::numeric_limits<s32>::min());
  EXPECT_EQ(remainder<s64>(-7, 2), -1);
  EXPECT_EQ(remainder<b64>(7, 0), 7u);
  EXPECT_EQ(absolute<s32>(std::numeric_limits<s32>::min()), std::numeric_limits<s32>::min());
}

TEST(EmulatedArithmetic, NanIsNeverTheSmaller) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(minimum(nan, 2.0f), 2);
  EXPECT_EQ(maximum(-3.0f, nan), -3);
  EXPECT_FALSE(compare_ne(nan, 1.0f));
  EXPECT_TRUE(compare_neu(nan, 1.0f));
  EXPECT_FALSE(compare_lt(nan, 1.0f));
  EXPECT_TRUE(compare_ltu(nan, 1.0f));
  EXPECT_TRUE(compare_geu(1.0f, nan));
  EXPECT_TRUE(compare_nan(nan, 1.0f));
  EXPECT_EQ(saturate(nan), 0);
  EXPECT_EQ(saturate(1.5f), 1);
}

TEST(EmulatedArithmetic, ConversionsRoundAndStopAtTheEnds) {
  EXPECT_EQ((convert<s32, Rounding::kNearest, false>(2.5f)), 2);
  EXPECT_EQ((convert<s32, Rounding::kZero, false>(-2.9f)), -2);
  EXPECT_EQ((convert<s32, Rounding::kDown, false>(-2.1f)), -3);
  EXPECT_EQ((convert<s32, Rounding::kUp, false>(2.1)), 3);
  EXPECT_EQ((convert<s32, Rounding::kZero, false>(1e20f)), std::numeric_limits<s32>::max());
  EXPECT_EQ((convert<b8, Rounding::kZero, false>(-5.0f)), 0);
  EXPECT_EQ((convert<s64, Rounding::kZero, false>(std::nanf(""))), 0);
  EXPECT_EQ((convert<b8, Rounding::kNone, false>(s32{257})), 1);
  EXPECT_EQ((convert<s8, Rounding::kNone, true>(s32{200})), 127);
  EXPECT_EQ((convert<float, Rounding::kNone, false>(b32{0xFFFFFFFF})), 4294967296.0f);
  EXPECT_EQ((convert<float, Rounding::kNone, false>(1.0 + 0x1p-25)), 1.0f);
  EXPECT_EQ((convert<float, Rounding::kNearest, false>(2.5f)), 2.0f);
  EXPECT_EQ((convert<float, Rounding::kNone, true>(7.0f)), 1.0f);
  EXPECT_TRUE(same(flush(-1e-40f), -0.0f));
}

/// The processor's own directed rounding is the oracle.
template <class F>
float with_rounding(int mode, const F& f) {
  std::fesetround(mode);
  volatile float result = f();
  std::fesetround(FE_TONEAREST);
  return result;
}

TEST(EmulatedArithmetic, DirectedRoundingIsTheProcessors) {
  std::mt19937 random(3);
  const auto number = [&] {
    return std::ldexp(static_cast<float>(static_cast<int>(random() % 33554432) - 16777216),
                      static_cast<int>(random() % 40) - 40);
  };
  for (int i = 0; i < 20000; ++i) {
    volatile float a = number(), b = number(), c = number();
    ASSERT_TRUE(same(add_directed<Rounding::kDown>(a, b),
                     with_rounding(FE_DOWNWARD, [&] { return a + b; })));
    ASSERT_TRUE(
        same(add_directed<Rounding::kUp>(a, b), with_rounding(FE_UPWARD, [&] { return a + b; })));
    ASSERT_TRUE(same(subtract_directed<Rounding::kZero>(a, b),
                     with_rounding(FE_TOWARDZERO, [&] { return a - b; })));
    ASSERT_TRUE(same(multiply_directed<Rounding::kZero>(a, b),
                     with_rounding(FE_TOWARDZERO, [&] { return a * b; })));
    ASSERT_TRUE(same(fused_directed<Rounding::kDown>(a, b, c),
                     with_rounding(FE_DOWNWARD, [&] { return std::fma(a, b, c); })));
    ASSERT_TRUE(same(fused_directed<Rounding::kZero>(a, b, c),
                     with_rounding(FE_TOWARDZERO, [&] { return std::fma(a, b, c); })));
  }
}

TEST(EmulatedBits, ShiftsBeyondTheWidthAreDefined) {
  EXPECT_EQ(shift_left<b32>(1, 31), 0x80000000u);
  EXPECT_EQ(shift_left<b32>(1, 32), 0u);
  EXPECT_EQ(shift_right<s32>(-8, 40), -1);
  EXPECT_EQ(shift_right<b32>(0x80000000u, 32), 0u);
  EXPECT_EQ(shift_right<b64>(b64{1} << 63, 63), 1u);
  EXPECT_EQ(shift_right<s16>(-4, 1), -2);
  EXPECT_EQ(funnel_left<true>(0x80000000u, 1, 33), 3u);
  EXPECT_EQ(funnel_left<false>(5, 1, 99), 5u);
  EXPECT_EQ(funnel_right<true>(2, 1, 1), 0x80000001u);
}

TEST(EmulatedBits, FieldsBytesAndTables) {
  EXPECT_EQ(extract_bits<b32>(0xABCD, 4, 8), 0xBCu);
  EXPECT_EQ(extract_bits<s32>(0xF0, 4, 4), -1);
  EXPECT_EQ(extract_bits<s32>(0x70, 4, 4), 7);
  EXPECT_EQ(extract_bits<b32>(0xFF, 4, 0), 0u);
  EXPECT_EQ(extract_bits<s64>(s64{-1}, 60, 16), -1);
  EXPECT_EQ(insert_bits<b32>(0x5, 0xFFFFFFFF, 4, 4), 0xFFFFFF5Fu);
  EXPECT_EQ(insert_bits<b32>(0xFF, 0, 28, 8), 0xF0000000u);
  EXPECT_EQ(permute_bytes(0x03020100, 0x07060504, 0x7531), 0x07050301u);
  EXPECT_EQ(permute_bytes(0x80, 0, 0x0008), 0x808080FFu);
  EXPECT_EQ(highest_bit<false>(b32{0x100}), 8u);
  EXPECT_EQ(highest_bit<true>(b32{0x100}), 23u);
  EXPECT_EQ(highest_bit<false>(s32{-1}), 0xFFFFFFFFu);
  EXPECT_EQ(reverse_bits<b32>(1), 0x80000000u);
  EXPECT_EQ((dot_bytes<s8, s8>(0xFF02, 0x0203, 10)), 10u + 6 - 2);
  EXPECT_EQ((dot_bytes<b8, b8>(0xFF, 0xFF, 0)), 65025u);
  for (b32 table = 0; table < 256; ++table) {
    for (b32 i = 0; i < 8; ++i) {
      const auto all = [](b32 bit) { return bit != 0 ? ~b32{0} : b32{0}; };
      EXPECT_EQ(logic3(all(i & 4), all(i & 2), all(i & 1), table), all(table >> i & 1))
          << table << ' ' << i;
    }
  }
}

}  // namespace
}  // namespace qlora::emulation
