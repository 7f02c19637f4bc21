#include "io/float_convert.h"

#include <cmath>
#include <limits>
#include <random>

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

/// Value of a small float from its definition: sign, exponent, fraction, in double.
double by_definition(uint32_t bits, int exponent_bits, int fraction_bits, bool has_infinity) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const uint32_t fraction = bits & ((1u << fraction_bits) - 1);
  const uint32_t exponent = bits >> fraction_bits & ((1u << exponent_bits) - 1);
  const double sign = bits >> (fraction_bits + exponent_bits) & 1 ? -1.0 : 1.0;
  const bool top = exponent == (1u << exponent_bits) - 1;
  if (top && has_infinity)
    return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  if (top && fraction == (1u << fraction_bits) - 1) return std::nan("");
  const double unit = std::ldexp(1.0, -fraction_bits);
  if (exponent == 0) return sign * std::ldexp(fraction * unit, 1 - bias);
  return sign * std::ldexp(1.0 + fraction * unit, static_cast<int>(exponent) - bias);
}

void expect_same(float actual, double expected, uint32_t bits) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(actual)) << bits;
  } else {
    EXPECT_EQ(std::bit_cast<uint32_t>(actual),
              std::bit_cast<uint32_t>(static_cast<float>(expected)))
        << bits;
  }
}

TEST(FloatConvert, WidensEveryHalf) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    expect_same(f16_to_f32(static_cast<uint16_t>(bits)), by_definition(bits, 5, 10, true), bits);
  }
}

TEST(FloatConvert, WidensEveryBfloat16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    expect_same(bf16_to_f32(static_cast<uint16_t>(bits)), by_definition(bits, 8, 7, true), bits);
  }
}

TEST(FloatConvert, WidensEveryFp8) {
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    expect_same(f8e4m3_to_f32(static_cast<uint8_t>(bits)), by_definition(bits, 4, 3, false), bits);
    expect_same(f8e5m2_to_f32(static_cast<uint8_t>(bits)), by_definition(bits, 5, 2, true), bits);
  }
}

/// Narrowing checked from both sides: the neighbours of the result are no nearer, ties have an even
/// result.
void expect_nearest(float value, uint16_t result, float (*widen)(uint16_t), uint16_t infinity) {
  const auto magnitude = static_cast<uint16_t>(result & 0x7fff);
  EXPECT_EQ(result >> 15, std::signbit(value) ? 1 : 0) << value;
  // Infinity stands for the value that the exponent range would hold next.
  const auto value_of = [&](uint16_t bits) {
    return bits == infinity ? 2.0 * widen(infinity - 1) - widen(infinity - 2)
                            : static_cast<double>(widen(bits));
  };
  const double target = std::fabs(static_cast<double>(value));
  if (std::isinf(value)) {
    EXPECT_EQ(magnitude, infinity);
    return;
  }
  const double error = std::fabs(value_of(magnitude) - target);
  if (magnitude == infinity && value_of(infinity) <= target) return;
  if (magnitude > 0) {
    const double below = std::fabs(value_of(magnitude - 1) - target);
    EXPECT_TRUE(error < below || (error == below && magnitude % 2 == 0)) << value;
  }
  if (magnitude < infinity) {
    const double above = std::fabs(value_of(magnitude + 1) - target);
    EXPECT_TRUE(error < above || (error == above && magnitude % 2 == 0)) << value;
  }
}

std::vector<float> hard_values() {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 0x7c00;
       ++bits) {  // every half, the middle to the next, and both neighbours
    const float low = f16_to_f32(static_cast<uint16_t>(bits)),
                high = f16_to_f32(static_cast<uint16_t>(bits + 1));
    const float middle = bits + 1 < 0x7c00 ? (low + high) / 2 : 65520.0f;
    for (const float v :
         {low, middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      values.push_back(v);
      values.push_back(-v);
    }
  }
  std::mt19937 random(7);
  for (int i = 0; i < 200000; ++i) {
    const float v = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isnan(v)) values.push_back(v);
  }
  for (uint32_t bits = 0; bits < 0x7f80; bits += 3) {  // middles of bfloat16
    for (const uint32_t low : {0x7fffu, 0x8000u, 0x8001u})
      values.push_back(std::bit_cast<float>(bits << 16 | low));
  }
  values.push_back(std::numeric_limits<float>::infinity());
  values.push_back(-std::numeric_limits<float>::infinity());
  values.push_back(std::numeric_limits<float>::max());
  return values;
}

TEST(FloatConvert, NarrowsToTheNearestTiesToEven) {
  for (const float value : hard_values()) {
    expect_nearest(value, f32_to_f16(value), f16_to_f32, 0x7c00);
    expect_nearest(value, f32_to_bf16(value), bf16_to_f32, 0x7f80);
  }
}

TEST(FloatConvert, NarrowingUndoesWidening) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    if (!std::isnan(f16_to_f32(half))) {
      EXPECT_EQ(f32_to_f16(f16_to_f32(half)), half);
    }
    if (!std::isnan(bf16_to_f32(half))) {
      EXPECT_EQ(f32_to_bf16(bf16_to_f32(half)), half);
    }
  }
}

TEST(FloatConvert, KeepsNaN) {
  for (const uint32_t bits : {0x7f800001u, 0x7fffffffu, 0xff800001u, 0xffc00000u}) {
    const float nan = std::bit_cast<float>(bits);
    EXPECT_EQ(f32_to_bf16(nan), bits >> 31 ? 0xffc0 : 0x7fc0);
    EXPECT_EQ(f32_to_f16(nan), bits >> 31 ? 0xfe00 : 0x7e00);
  }
}

template <class Bits, class Convert>
void expect_bulk_equals(DType dtype, const std::string& content, Convert convert) {
  for (const size_t shift : {0, 1, 3}) {  // unaligned too
    const int64_t count = static_cast<int64_t>((content.size() - shift) / sizeof(Bits));
    std::vector<float> out(static_cast<size_t>(count) + 1, 42.0f);
    convert_to_f32(dtype, reinterpret_cast<const std::byte*>(content.data()) + shift, count,
                   out.data());
    for (int64_t i = 0; i < count; ++i) {
      Bits bits;
      std::memcpy(&bits, content.data() + shift + i * sizeof(Bits), sizeof(Bits));
      const float expected = convert(bits);
      ASSERT_EQ(std::isnan(out[i]), std::isnan(expected));
      if (!std::isnan(expected)) {
        ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(expected));
      }
    }
    EXPECT_EQ(out.back(), 42.0f) << "wrote past the end";
  }
}

TEST(FloatConvert, BulkEqualsOneByOne) {
  std::string content;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) content += bytes_of(static_cast<uint16_t>(bits));
  expect_bulk_equals<uint16_t>(DType::kF16, content, f16_to_f32);
  expect_bulk_equals<uint16_t>(DType::kBF16, content, bf16_to_f32);
  expect_bulk_equals<uint8_t>(DType::kF8E4M3, content, f8e4m3_to_f32);
  expect_bulk_equals<uint8_t>(DType::kF8E5M2, content, f8e5m2_to_f32);
  expect_bulk_equals<float>(DType::kF32, content, [](float v) { return v; });
  expect_bulk_equals<double>(DType::kF64, content, [](double v) { return static_cast<float>(v); });
}

TEST(FloatConvert, BulkNarrowingEqualsOneByOne) {
  const std::vector<float> values = hard_values();
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> bf16(values.size() * 2 + 1), f16(values.size() * 2 + 1);
  convert_f32_to_bf16(values.data(), count, bf16.data() + 1);
  convert_f32_to_f16(values.data(), count, f16.data() + 1);
  std::vector<float> rounded = values;
  round_to_bf16(rounded.data(), count);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, bf16.data() + 1 + 2 * i, 2);
    ASSERT_EQ(bits, f32_to_bf16(values[i]));
    ASSERT_EQ(std::bit_cast<uint32_t>(rounded[i]), uint32_t{bits} << 16);
    std::memcpy(&bits, f16.data() + 1 + 2 * i, 2);
    ASSERT_EQ(bits, f32_to_f16(values[i]));
  }
}

TEST(FloatConvert, RefusesIntegers) {
  const std::byte data[8] = {};
  float out = 0;
  for (const DType dtype :
       {DType::kI8, DType::kU8, DType::kI16, DType::kI32, DType::kI64, DType::kBool}) {
    EXPECT_MESSAGE(ValueError, convert_to_f32(dtype, data, 1, &out), dtype_name(dtype));
  }
}

}  // namespace
}  // namespace qlora::io
