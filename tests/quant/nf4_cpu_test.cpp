#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "quant/nf4_backend.h"
#include "tests/quant/cpu_case.h"
#include "tests/support/distortion.h"

namespace qlora::quant {
namespace {

using testing::Numbers;

struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> absmax;
  int64_t first_bad_block = kNoBadBlock;
};

using Parameters = std::tuple<int64_t, FloatKind, int64_t>;

/// Every instruction set x number type x block size, and in each test both types of code, against
/// nf4_math.h.
class Nf4Cpu : public ::testing::TestWithParam<Parameters> {
 protected:
  int64_t target() const { return std::get<0>(GetParam()); }
  FloatKind kind() const { return std::get<1>(GetParam()); }
  int64_t block_size() const { return std::get<2>(GetParam()); }
  FourBitType type() const { return type_; }

  template <class Body>
  void for_each_variant(const Body& body) {
    for (const FourBitType type : {FourBitType::kNf4, FourBitType::kFp4}) {
      SCOPED_TRACE(type == FourBitType::kNf4 ? "nf4" : "fp4");
      type_ = type;
      body();
      if (HasFatalFailure()) return;
    }
  }

  Quantized quantize(Numbers& in) const {
    const testing::UseSimdTarget use(target());
    const int64_t count = in.size();
    Quantized q{std::vector<uint8_t>((count + 1) / 2, 0xEE),
                std::vector<float>((count + block_size() - 1) / block_size(), -1)};
    cpu::quantize_nf4({in.data(), kind(), count, block_size(), type(), q.codes.data(),
                       q.absmax.data(), &q.first_bad_block});
    return q;
  }

  /// Codes and absmax of all blocks, straight from the definition.
  Quantized expected(Numbers& in) const {
    const int64_t count = in.size();
    Quantized q{std::vector<uint8_t>((count + 1) / 2), {}};
    for (int64_t begin = 0; begin < count; begin += block_size()) {
      const int64_t end = std::min(count, begin + block_size());
      float absmax = 0;
      for (int64_t i = begin; i < end; ++i) absmax = std::max(absmax, std::abs(in.get(i)));
      const auto scale = nf4_block_scale(absmax, end - begin < block_size());
      q.absmax.push_back(scale.stored);
      for (int64_t i = begin; i < end + (end == count ? count % 2 : 0); ++i) {
        const float x = i < count ? in.get(i) : 0.0f;
        const uint8_t code = four_bit_code(type(), nf4_normalize(x, scale));
        q.codes[i / 2] |= i % 2 == 0 ? code << 4 : code;
      }
    }
    return q;
  }

  void check(Numbers in) const {
    const Quantized got = quantize(in);
    const Quantized want = expected(in);
    EXPECT_EQ(got.first_bad_block, kNoBadBlock);
    ASSERT_EQ(got.absmax, want.absmax) << in.size();
    ASSERT_EQ(got.codes, want.codes) << in.size();
  }

 private:
  FourBitType type_ = FourBitType::kNf4;
};

TEST_P(Nf4Cpu, QuantizesAsTheMathSaysForAllKindsOfCounts) {
  for_each_variant([&] {
    const int64_t g = block_size();
    for (const int64_t count : {int64_t{1}, int64_t{2}, int64_t{31}, int64_t{33}, g - 1, g, g + 1,
                                2 * g, 3 * g + 17, 5 * g + g / 2, 9 * g + 32}) {
      check(Numbers(kind(), testing::normal_values(count, static_cast<uint32_t>(count))));
    }
  });
}

TEST_P(Nf4Cpu, QuantizesEveryFiniteSixteenBitNumber) {
  for_each_variant([&] {
    for (const bool is_f16 : {true, false}) {
      std::vector<float> values;
      for (uint32_t bits = 0; bits < 65536; ++bits) {
        const auto half = static_cast<uint16_t>(bits);
        const float x = is_f16 ? f16_to_float(half) : bf16_to_float(half);
        if (std::isfinite(x) && (kind() != FloatKind::kF16 || std::abs(x) < 65000)) {
          values.push_back(x);
        }
      }
      check(Numbers(kind(), values));
      // Once more with absmax 1 in each block, so that small numbers meet all thresholds.
      std::vector<float> scaled;
      for (const float x : values) {
        if (scaled.size() % block_size() == 0) scaled.push_back(1);
        if (std::abs(x) <= 1) scaled.push_back(x);
      }
      check(Numbers(kind(), scaled));
    }
  });
}

TEST_P(Nf4Cpu, QuantizesTiesAndTheirNeighbours) {
  for_each_variant([&] {
    std::vector<float> values;
    for (int k = 0; k < 15; ++k) {
      for (const float to : {-9.0f, 0.0f, 9.0f}) {
        if (values.size() % block_size() == 0) values.push_back(-1);
        const float middle = four_bit_midpoint(type(), k);
        values.push_back(to == 0 ? middle : std::nextafter(middle, to));
      }
    }
    values.resize((values.size() + block_size() - 1) / block_size() * block_size());
    check(Numbers(kind(), values));
  });
}

TEST_P(Nf4Cpu, QuantizesZeroTinyAndHugeBlocks) {
  for_each_variant([&] {
    const float huge = kind() == FloatKind::kF16 ? 65504.0f : 3.3e38f;
    std::vector<float> values(7 * block_size(), 0.0f);
    const auto block = [&](int64_t b) { return values.data() + b * block_size(); };
    block(1)[3] = -0.0f;
    block(2)[5] = 1e-45f;
    block(3)[0] = 1e-38f;
    block(3)[1] = -3e-39f;
    block(4)[0] = huge;
    block(4)[1] = -huge / 3;
    block(5)[block_size() - 1] = -huge;
    std::fill(block(6), block(6) + block_size(), 1e-30f);
    check(Numbers(kind(), values));
    values.resize(6 * block_size() + 7);  // a zero tail
    std::fill(block(6), block(6) + 7, 0.0f);
    check(Numbers(kind(), values));
  });
}

TEST_P(Nf4Cpu, NamesTheFirstBlockThatIsNotFinite) {
  for_each_variant([&] {
    const float infinity = std::numeric_limits<float>::infinity();
    const int64_t count = 5 * block_size() + 3;
    for (const float bad : {infinity, -infinity, std::nanf("")}) {
      for (const int64_t at : {int64_t{0}, block_size() - 1, 2 * block_size() + 5, count - 1}) {
        Numbers in(kind(), testing::normal_values(count, 5));
        in.set(at, bad);
        in.set(count - 2, bad);
        const Quantized got = quantize(in);
        EXPECT_EQ(got.first_bad_block, at / block_size());
        EXPECT_EQ(got.absmax[at / block_size()], 0.0f);
      }
    }
  });
}

TEST_P(Nf4Cpu, DequantizesAsTheMathSaysForAnyRange) {
  for_each_variant([&] {
    const testing::UseSimdTarget use(target());
    const int64_t g = block_size();
    const int64_t total = 7 * g + 13;
    const auto codes = testing::random_bytes((total + 1) / 2, 6);
    const auto scale_codes = testing::random_bytes(8, 7);
    const std::vector<float> nested = {0.8f};
    const std::vector<float> absmax = testing::normal_values(8, 8);
    for (const bool is_nested : {false, true}) {
      const Nf4Scales scales = is_nested
                                   ? Nf4Scales{nullptr, scale_codes.data(), nested.data(), 0.9f}
                                   : Nf4Scales{absmax.data()};
      for (const auto& [begin, count] :
           std::vector<std::pair<int64_t, int64_t>>{{0, total},
                                                    {0, 1},
                                                    {1, 1},
                                                    {1, g},
                                                    {g - 1, 2},
                                                    {g, 3 * g},
                                                    {g + 1, 4 * g + 3},
                                                    {total - 1, 1},
                                                    {5, 0},
                                                    {3 * g, total - 3 * g}}) {
        Numbers out(kind(), count + 1);
        const uint32_t guard = out.encoded(-77);
        out.set(count, -77);
        cpu::dequantize_nf4({codes.data(), scales, type(), g, begin, count, out.data(), kind()});
        for (int64_t i = 0; i < count; ++i) {
          const int64_t e = begin + i;
          const float value =
              four_bit_level(type(), four_bit_at(codes.data(), e)) * nf4_scale(scales, e / g);
          ASSERT_EQ(out.bits(i), out.encoded(value)) << "element " << e << " of " << begin;
        }
        ASSERT_EQ(out.bits(count), guard) << "wrote past the end";
      }
    }
  });
}

TEST_P(Nf4Cpu, DequantizesEveryByteUnderExtremeScales) {
  for_each_variant([&] {
    const testing::UseSimdTarget use(target());
    const int64_t g = block_size();
    std::vector<uint8_t> bytes(256);
    for (int b = 0; b < 256; ++b) bytes[b] = static_cast<uint8_t>(b);
    const std::vector<float> scales = {
        0.0f,         -0.0f, 1e-45f,  1e-38f,   6e-8f,
        3e-5f,        0.1f,  1.0f,    65503.9f, 65519.9f,
        65520.0f,     1e30f, 3.4e38f, -2.0f,    std::numeric_limits<float>::infinity(),
        std::nanf("")};
    const int64_t blocks_of_bytes = std::max<int64_t>(1, 512 / g);
    for (const float scale : scales) {
      const int64_t count = blocks_of_bytes * g;
      std::vector<uint8_t> codes(count / 2);
      for (int64_t j = 0; j < count / 2; ++j) codes[j] = bytes[j % 256];
      const std::vector<float> absmax(blocks_of_bytes, scale);
      Numbers out(kind(), count);
      cpu::dequantize_nf4({codes.data(), {absmax.data()}, type(), g, 0, count, out.data(), kind()});
      for (int64_t i = 0; i < count; ++i) {
        const float value = four_bit_level(type(), four_bit_at(codes.data(), i)) * scale;
        if (std::isnan(value)) {
          ASSERT_TRUE(std::isnan(out.get(i)));
        } else {
          ASSERT_EQ(out.bits(i), out.encoded(value)) << scale << " element " << i;
        }
      }
    }
  });
}

TEST_P(Nf4Cpu, RestoresWithinHalfAGapOfTheLevels) {
  for_each_variant([&] {
    const int64_t count = 40 * block_size();
    Numbers in(kind(), testing::normal_values(count, 9));
    const Quantized q = quantize(in);
    Numbers out(FloatKind::kF32, count);
    cpu::dequantize_nf4({q.codes.data(),
                         {q.absmax.data()},
                         type(),
                         block_size(),
                         0,
                         count,
                         out.data(),
                         FloatKind::kF32});
    const double worst = type() == FourBitType::kNf4 ? kNf4MaxError : kFp4MaxError;
    testing::DistortionStats stats;
    for (int64_t i = 0; i < count; ++i) {
      stats.add(in.get(i), out.get(i));
      ASSERT_LE(std::abs(double{in.get(i)} - out.get(i)),
                q.absmax[i / block_size()] * (worst + 1e-6));
    }
    EXPECT_EQ(stats.sign_flips(), 0);
    EXPECT_GE(stats.exact(),
              40);  // the absmax of each block, where it is positive or the level is -1
    EXPECT_LT(stats.rounded_to_zero(), count / 4);
    // A normal distribution at 64 elements: 20.9 dB (NF4), 18.3 dB (FP4); less for greater blocks,
    // whose absmax is greater.
    const double expected = type() == FourBitType::kNf4 ? 20.9 : 18.3;
    if (block_size() == 64) {
      EXPECT_NEAR(stats.signal_to_noise_db(), expected, 0.3);
    } else {
      EXPECT_GT(stats.signal_to_noise_db(), expected - 4);
      EXPECT_LT(stats.signal_to_noise_db(), expected + 2);
    }
  });
}

std::string case_name(const ::testing::TestParamInfo<Parameters>& info) {
  const auto [target, kind, block_size] = info.param;
  return std::string(hwy::TargetName(target)) + "_" + testing::kind_name(kind) + "_" +
         std::to_string(block_size);
}

INSTANTIATE_TEST_SUITE_P(All, Nf4Cpu,
                         ::testing::Combine(::testing::ValuesIn(testing::simd_targets()),
                                            ::testing::ValuesIn(testing::kFloatKinds),
                                            ::testing::Values(32, 64, 4096)),
                         case_name);

TEST(Nf4CpuThreads, TheThreadCountChangesNoBit) {
  const int64_t count = 700'001;
  const auto values = testing::normal_values(count, 10);
  Numbers in(FloatKind::kF32, values);
  std::vector<std::vector<uint8_t>> codes;
  std::vector<std::vector<float>> scales, weights;
  std::vector<float> means;
  for (const int threads : {1, 2, 3, 8}) {
    const testing::UseThreads use(threads);
    auto& c = codes.emplace_back((count + 1) / 2);
    auto& a = scales.emplace_back((count + 63) / 64);
    int64_t bad = kNoBadBlock;
    cpu::quantize_nf4(
        {in.data(), FloatKind::kF32, count, 64, FourBitType::kNf4, c.data(), a.data(), &bad});
    auto& w = weights.emplace_back(count - 11);
    cpu::dequantize_nf4(
        {c.data(), {a.data()}, FourBitType::kNf4, 64, 11, count - 11, w.data(), FloatKind::kF32});
    std::vector<double> scratch(mean_scratch_size(static_cast<int64_t>(a.size())));
    cpu::mean({a.data(), static_cast<int64_t>(a.size()), scratch.data(), &means.emplace_back()});
  }
  for (size_t t = 1; t < codes.size(); ++t) {
    EXPECT_EQ(codes[t], codes[0]);
    EXPECT_EQ(scales[t], scales[0]);
    EXPECT_EQ(weights[t], weights[0]);
    EXPECT_EQ(means[t], means[0]);
  }
}

TEST(Nf4CpuThreads, TheFirstBadBlockIsTheFirstOnAnyThreadCount) {
  const int64_t count = 1'000'000;
  Numbers in(FloatKind::kF32, testing::normal_values(count, 11));
  for (int64_t i = 999'999; i > 0; i -= 77'777) in.set(i, std::nanf(""));
  const int64_t first = 999'999 % 77'777 / 64;
  for (const int threads : {1, 2, 8}) {
    const testing::UseThreads use(threads);
    std::vector<uint8_t> codes(count / 2);
    std::vector<float> absmax(count / 64);
    int64_t bad = kNoBadBlock;
    cpu::quantize_nf4({in.data(), FloatKind::kF32, count, 64, FourBitType::kNf4, codes.data(),
                       absmax.data(), &bad});
    EXPECT_EQ(bad, first);
  }
}

/// The mean from its definition: groups of 256, then groups of their sums.
double defined_sum(std::vector<double> values) {
  do {
    std::vector<double> sums;
    for (size_t begin = 0; begin < values.size(); begin += kSumGroup) {
      double group[kSumGroup] = {};
      for (size_t i = begin; i < std::min(values.size(), begin + kSumGroup); ++i) {
        group[i - begin] = values[i];
      }
      sums.push_back(sum_group(group));
    }
    values = sums;
  } while (values.size() > 1);
  return values[0];
}

TEST(Nf4Mean, IsTheSumInTheStatedOrderDividedOnce) {
  for (const int64_t count : {1, 2, 255, 256, 257, 65535, 65536, 65537, 200'000}) {
    std::vector<float> values = testing::normal_values(count, 12, 1e3f);
    for (float& value : values) value = std::abs(value);
    std::vector<double> scratch(mean_scratch_size(count));
    float mean = -1;
    cpu::mean({values.data(), count, scratch.data(), &mean});
    const double sum = defined_sum({values.begin(), values.end()});
    EXPECT_EQ(mean, static_cast<float>(sum / static_cast<double>(count))) << count;
    double plain = 0;
    for (const float value : values) plain += value;
    EXPECT_NEAR(mean, plain / static_cast<double>(count), 1e-6 * plain / count);
  }
}

}  // namespace
}  // namespace qlora::quant
