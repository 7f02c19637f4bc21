// nvcc's own device functions through the translator: its exp, sine, half and integer arithmetic,
// whose code reaches most instructions that kernels meet.
#include "tests/emulation/planted/functions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>

#include "tests/emulation/device/arithmetic.h"
#include "tests/kernels/back_end.h"

namespace qlora::emulation {
namespace {

using testing::BackEnd;
using testing::DeviceArray;

constexpr int kCount = 1000;

template <class T>
DeviceArray<T> on_device(const std::vector<T>& values) {
  return {BackEnd::kCuda, values};
}

/// A function in double, and how many ulps CUDA's may be off (CUDA C++ Programming Guide 13.0,
/// "Mathematical Functions Appendix").
struct FloatFunction {
  const char* name;
  double (*f)(double);
  double ulps;
};
const FloatFunction kFloats[planted::kFloatFunctions] = {
    {"expf", [](double x) { return std::exp(x); }, 2},
    {"exp2f", [](double x) { return std::exp2(x); }, 2},
    {"expm1f", [](double x) { return std::expm1(x); }, 1},
    {"logf", [](double x) { return std::log(std::fabs(x)); }, 1},
    {"log1pf", [](double x) { return std::log1p(std::fabs(x)); }, 1},
    {"powf", [](double x) { return std::pow(std::fabs(x), 1.5); }, 4},
    {"sinf", [](double x) { return std::sin(x); }, 2},
    {"cosf", [](double x) { return std::cos(x); }, 2},
    {"sincosf, sine", [](double x) { return std::sin(double{1000 * static_cast<float>(x)}); }, 2},
    {"sincosf, cosine", [](double x) { return std::cos(double{1000 * static_cast<float>(x)}); }, 2},
    {"tanhf", [](double x) { return std::tanh(x); }, 2},
    {"erff", [](double x) { return std::erf(x); }, 2},
    {"sqrtf", [](double x) { return std::sqrt(std::fabs(x)); }, 0.5},
    {"rsqrtf", [](double x) { return 1 / std::sqrt(std::fabs(x)); }, 2},
    {"cbrtf", [](double x) { return std::cbrt(x); }, 1},
    {"1 / x", [](double x) { return 1 / x; }, 0.5},
    // exp is off by 2 ulps, the sum and the quotient round once each.
    {"swish", [](double x) { return x / (1 + std::exp(-x)); }, 4},
    {"fmodf", [](double x) { return std::fmod(x, static_cast<double>(0.7f)); }, 0},
    {"rintf", [](double x) { return std::rint(x); }, 0},
    {"floorf + ceilf", [](double x) { return std::floor(x) + std::ceil(x); }, 0},
    {"truncf", [](double x) { return std::trunc(x); }, 0},
    {"ldexpf", [](double x) { return std::ldexp(x, 3); }, 0},
    // 2 + floor(abs(1.173 * x)) ulps, as documented; |x| <= 16 here.
    {"__expf", [](double x) { return std::exp(x); }, 2 + 18},
    {"fmaf", [](double x) { return std::fma(x, x, std::fabs(x)); }, 0.5}};

/// Errors of 1 ulp and less are stated for the result as rounded: half an ulp more from the true
/// value.
TEST(DeviceFunctions, FloatsAreWithinTheDocumentedError) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-16, 16);
  std::vector<float> in(kCount);
  for (float& x : in) x = uniform(random);
  auto device_in = on_device(in);
  auto device_out = on_device(std::vector<float>(kCount * planted::kFloatFunctions));
  planted::float_functions(device_in.data(), device_out.data(), kCount);
  const auto out = device_out.values();
  for (int f = 0; f < planted::kFloatFunctions; ++f) {
    double most = 0;
    for (int i = 0; i < kCount; ++i) {
      const double want = kFloats[f].f(in[i]), got = out[f * kCount + i];
      const double ulp = std::ldexp(1, std::max(std::ilogb(static_cast<float>(want)), -126) - 23);
      const double error = std::fabs(got - want) / ulp;
      most = std::isnan(error) ? HUGE_VAL : std::max(most, error);
    }
    EXPECT_LE(most, kFloats[f].ulps + (kFloats[f].ulps >= 1 ? 0.5 : 0)) << kFloats[f].name;
  }
}

/// Functions in long double, whose code here is called (pow) and carries between words (sine of
/// large arguments). Bounds as above.
TEST(DeviceFunctions, DoublesAreWithinTheDocumentedError) {
  struct DoubleFunction {
    const char* name;
    long double (*f)(long double);
    double ulps;
  };
  const DoubleFunction functions[planted::kDoubleFunctions] = {
      {"exp", [](long double x) { return std::exp(x); }, 1},
      {"log", [](long double x) { return std::log(std::fabs(x)); }, 1},
      {"pow", [](long double x) { return std::pow(std::fabs(x), 1.5L); }, 2},
      {"sin", [](long double x) { return std::sin(x); }, 2},
      {"cos", [](long double x) { return std::cos(x); }, 2},
      {"sin of large",
       [](long double x) {
         return std::sin(static_cast<long double>(1e7 * static_cast<double>(x)));
       },
       2},
      {"sqrt", [](long double x) { return std::sqrt(std::fabs(x)); }, 0.5},
      {"1 / x", [](long double x) { return 1 / x; }, 0.5},
      {"fma",
       [](long double x) {
         return static_cast<long double>(std::fma(static_cast<double>(x), static_cast<double>(x),
                                                  std::fabs(static_cast<double>(x))));
       },
       0}};
  std::mt19937_64 random(4);
  std::uniform_real_distribution<double> uniform(-1000, 1000);
  std::vector<double> in(kCount);
  for (double& x : in) x = uniform(random) / 2;
  auto device_in = on_device(in);
  auto device_out = on_device(std::vector<double>(kCount * planted::kDoubleFunctions));
  planted::double_functions(device_in.data(), device_out.data(), kCount);
  const auto out = device_out.values();
  for (int f = 0; f < planted::kDoubleFunctions; ++f) {
    long double most = 0;
    for (int i = 0; i < kCount; ++i) {
      const long double want = functions[f].f(in[i]), got = out[f * kCount + i];
      const long double error = std::fabs(got - want) / std::ldexp(1.0L, std::ilogb(want) - 52);
      most = std::isnan(error) ? HUGE_VALL : std::max(most, error);
    }
    EXPECT_LE(static_cast<double>(most), functions[f].ulps + (functions[f].ulps >= 1 ? 0.5 : 0))
        << functions[f].name;
  }
}

template <class Half>
void expect_half_functions(const std::vector<uint16_t>& bits, bool is_bf16) {
  const int count = static_cast<int>(bits.size()) / 2;
  const std::vector<uint16_t> a(bits.begin(), bits.begin() + count),
      b(bits.begin() + count, bits.end());
  auto device_a = on_device(a), device_b = on_device(b);
  auto device_out = on_device(std::vector<uint16_t>(a.size() * planted::kHalfFunctions));
  planted::half_functions(device_a.data(), device_b.data(), device_out.data(), count, is_bf16);
  const auto out = device_out.values();
  for (int i = 0; i < count; ++i) {
    const Half x{a[i]}, y{b[i]};
    const double p = widen(x), q = widen(y);
    const auto rounded = [](double exact) { return narrow<Half>(exact).bits; };
    const auto fma = [](Half u, Half v, Half w) { return fused(u, v, w).bits; };
    const uint16_t want[planted::kHalfFunctions] = {
        rounded(p + q),
        rounded(p * q),
        fma(x, y, x),
        rounded(p + q),
        fma(y, x, y),
        rounded(std::fmax(p, q)),
        rounded(-p),
        rounded(std::fabs(q)),
        rounded(static_cast<float>(p) + static_cast<float>(q) * 3)};
    for (int f = 0; f < planted::kHalfFunctions; ++f) {
      ASSERT_EQ(out[f * count + i], want[f]) << "function " << f << " of " << p << " and " << q;
    }
  }
}

TEST(DeviceFunctions, HalvesRoundOnce) {
  std::mt19937 random(2);
  std::vector<uint16_t> halves;
  while (halves.size() < 4000) {
    const auto bits = static_cast<uint16_t>(random());
    if ((bits & 0x7C00) != 0x7C00 && (bits & 0x7FFF) != 0)
      halves.push_back(bits);  // finite, and no zero
  }
  expect_half_functions<f16>(halves, false);
  for (uint16_t& bits : halves)
    bits = static_cast<uint16_t>((bits & 0x87FF) | 0x3800);  // [2^-15, 2)
  expect_half_functions<bf16>(halves, true);
}

TEST(DeviceFunctions, IntegersAreExact) {
  std::mt19937 random(3);
  std::vector<int32_t> a(kCount), b(kCount);
  for (int i = 0; i < kCount; ++i) {
    a[i] = static_cast<int32_t>(random() >> random() % 32);
    b[i] = static_cast<int32_t>(random() >> random() % 32) * (i % 2 == 0 ? 1 : -1);
  }
  auto device_a = on_device(a), device_b = on_device(b);
  auto device_out = on_device(std::vector<int64_t>(kCount * planted::kIntegerFunctions));
  planted::integer_functions(device_a.data(), device_b.data(), device_out.data(), kCount);
  const auto out = device_out.values();
  for (int i = 0; i < kCount; ++i) {
    const int64_t x = a[i], y = b[i];
    const auto u = static_cast<uint32_t>(a[i]), v = static_cast<uint32_t>(b[i]);
    const auto wide =
        static_cast<int64_t>(static_cast<uint64_t>(x) << 20 ^ static_cast<uint64_t>(y));
    int32_t signed_dot = 3;
    uint32_t dot = 3, reversed = 0;
    for (int k = 0; k < 4; ++k) {
      signed_dot += static_cast<int8_t>(u >> 8 * k) * static_cast<int8_t>(v >> 8 * k);
      dot += (u >> 8 * k & 255) * (v >> 8 * k & 255);
    }
    for (int k = 0; k < 32; ++k) reversed |= (u >> k & 1) << (31 - k);
    const auto byte = [&](int k) { return (k < 4 ? u >> 8 * k : v >> 8 * (k - 4)) & 255u; };
    const int64_t want[planted::kIntegerFunctions] = {
        x / (y | 1),
        x % (y | 1),
        u / (v | 1),
        u % (v | 1),
        wide / (y | 1),
        wide % (y | 1),
        signed_dot,
        dot,
        std::popcount(u),
        std::countl_zero(u),
        u == 0 ? 0 : std::countr_zero(u) + 1,
        reversed,
        byte(5) | byte(1) << 8 | byte(7) << 16 | byte(3) << 24,
        v << 7 | u >> 25,
        x * y >> 32,
        static_cast<int64_t>(uint64_t{u} * v >> 32),
        static_cast<int64_t>(static_cast<unsigned __int128>(static_cast<uint64_t>(wide)) *
                                 static_cast<uint64_t>(wide) >>
                             64),
        wide >> (v & 63),
        x >> (v & 31),
        (u >> 5 & 0x1F) << 9 | (v & 0x1FF)};
    for (int f = 0; f < planted::kIntegerFunctions; ++f) {
      ASSERT_EQ(out[f * kCount + i], want[f]) << "function " << f << " of " << x << " and " << y;
    }
  }
}

TEST(DeviceFunctions, WarpsShuffleVoteAndReduce) {
  constexpr int kLanesInAll = 32 * 7;
  std::vector<int32_t> in(kLanesInAll);
  for (int i = 0; i < kLanesInAll; ++i) in[i] = (i * 37 % 101 - 50) * (i < 96 ? 1 : 4);
  auto device_in = on_device(in);
  auto device_out = on_device(std::vector<int32_t>(kLanesInAll * planted::kWarpFunctions));
  planted::warp_functions(device_in.data(), device_out.data(), kLanesInAll);
  const auto out = device_out.values();
  for (int i = 0; i < kLanesInAll; ++i) {
    const int lane = i % 32;
    const int32_t* const warp = in.data() + (i - lane);
    const auto count_if = [&](auto f) { return std::count_if(warp, warp + 32, f); };
    uint32_t ballot = 0;
    for (int k = 0; k < 32; ++k) ballot |= (warp[k] > 0 ? 1u : 0u) << k;
    const int32_t want[planted::kWarpFunctions] = {
        warp[5],
        warp[lane / 8 * 8 + (lane + 3) % 8],
        warp[lane < 3 ? lane : lane - 3],
        warp[lane % 16 < 3 ? lane : lane - 3],
        warp[lane + 6 > 31 ? lane : lane + 6],
        warp[lane ^ 20],
        static_cast<int32_t>(ballot),
        count_if([](int32_t x) { return x > 100; }) > 0,
        count_if([](int32_t x) { return x > -100; }) == 32,
        std::accumulate(warp, warp + 32, 0),
        *std::min_element(warp, warp + 32)};
    for (int f = 0; f < planted::kWarpFunctions; ++f) {
      ASSERT_EQ(out[f * kLanesInAll + i], want[f]) << "function " << f << " lane " << i;
    }
  }
}

TEST(DeviceFunctions, SharedAddressesWrapAt32Bits) {
  auto in = on_device(std::vector<float>{1, 2, 3});
  auto out = on_device(std::vector<float>(3));
  planted::wrapping_addresses(in.data(), out.data(), 3);
  EXPECT_EQ(out.values(), (std::vector<float>{3, 2, 1}));
}

TEST(DeviceFunctions, AtomicsCountEveryThread) {
  std::vector<int32_t> in(kCount);
  for (int i = 0; i < kCount; ++i) in[i] = i * 7919 % 1009 - 500;
  auto device_in = on_device(in);
  auto totals = on_device(std::vector<int32_t>{0, 1 << 20, -(1 << 20), 0, -1, 0, 0, 0});
  auto float_sum = on_device(std::vector<float>{0});
  auto double_sum = on_device(std::vector<double>{0});
  planted::atomic_functions(device_in.data(), totals.data(), float_sum.data(), double_sum.data(),
                            kCount);
  const auto fold = [&](int32_t start, auto f) {
    return std::accumulate(in.begin(), in.end(), start, f);
  };
  const int32_t sum = fold(0, std::plus<>());
  EXPECT_EQ(totals.values(),
            (std::vector<int32_t>{sum, *std::min_element(in.begin(), in.end()),
                                  *std::max_element(in.begin(), in.end()), fold(0, std::bit_or<>()),
                                  fold(-1, std::bit_and<>()), fold(0, std::bit_xor<>()), 1, 9}));
  EXPECT_EQ(float_sum.values()[0], static_cast<float>(sum));  // whole numbers below 2^24: exact
  EXPECT_EQ(double_sum.values()[0], sum);
}

}  // namespace
}  // namespace qlora::emulation
