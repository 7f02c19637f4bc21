#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <tuple>

#include "quant/blockwise8_backend.h"
#include "tests/quant/cpu_case.h"
#include "tests/support/distortion.h"

namespace qlora::quant {
namespace {

using testing::Numbers;
using Parameters = std::tuple<int64_t, FloatKind, int64_t>;

/// Every instruction set x number type x block size, and in each test every map and sign rule,
/// against blockwise8_math.h.
class Blockwise8Cpu : public ::testing::TestWithParam<Parameters> {
 protected:
  int64_t target() const { return std::get<0>(GetParam()); }
  FloatKind kind() const { return std::get<1>(GetParam()); }
  int64_t block_size() const { return std::get<2>(GetParam()); }
  DynamicMap map() const { return map_; }
  SignRule rule() const { return rule_; }

  template <class Body>
  void for_each_variant(const Body& body) {
    for (const DynamicMap map : {DynamicMap::kSigned, DynamicMap::kUnsigned}) {
      for (const SignRule rule : {SignRule::kNearest, SignRule::kKeep}) {
        SCOPED_TRACE(std::string(map == DynamicMap::kSigned ? "signed" : "unsigned") +
                     (rule == SignRule::kKeep ? ", keeps signs" : ""));
        map_ = map;
        rule_ = rule;
        body();
        if (HasFatalFailure()) return;
      }
    }
  }

  void check(Numbers in) const {
    const testing::UseSimdTarget use(target());
    const int64_t count = in.size();
    std::vector<uint8_t> codes(count + 1, 0xEE);
    std::vector<float> absmax((count + block_size() - 1) / block_size(), -1);
    int64_t bad = kNoBadBlock;
    cpu::quantize_blockwise8(
        {in.data(), kind(), count, block_size(), map(), rule(), codes.data(), absmax.data(), &bad});
    EXPECT_EQ(bad, kNoBadBlock);
    EXPECT_EQ(codes[count], 0xEE) << "wrote past the end";
    const DynamicTable& table = dynamic_table(map());
    Numbers out(kind(), count);
    cpu::dequantize_blockwise8(
        {codes.data(), absmax.data(), count, block_size(), map(), out.data(), kind()});
    for (int64_t begin = 0; begin < count; begin += block_size()) {
      const int64_t end = std::min(count, begin + block_size());
      float most = 0;
      for (int64_t i = begin; i < end; ++i) most = std::max(most, std::abs(in.get(i)));
      ASSERT_EQ(absmax[begin / block_size()], most);
      const Blockwise8Scale scale = blockwise8_scale(most);
      for (int64_t i = begin; i < end; ++i) {
        ASSERT_EQ(codes[i], blockwise8_code(table, in.get(i), scale, rule())) << in.get(i);
        ASSERT_EQ(out.bits(i), out.encoded(blockwise8_value(table, codes[i], most)));
      }
    }
  }

 private:
  DynamicMap map_ = DynamicMap::kSigned;
  SignRule rule_ = SignRule::kNearest;
};

TEST_P(Blockwise8Cpu, AgreesWithTheMathForAllKindsOfCounts) {
  for_each_variant([&] {
    const int64_t g = block_size();
    for (const int64_t count :
         {int64_t{1}, int64_t{15}, int64_t{17}, g - 1, g, g + 1, 3 * g + 19}) {
      auto values = testing::normal_values(count, static_cast<uint32_t>(count));
      check(Numbers(kind(), values));
      for (float& value : values) value *= value;  // squares, as the optimizer's second state
      check(Numbers(kind(), values));
    }
  });
}

TEST_P(Blockwise8Cpu, AgreesWithTheMathOnEverySixteenBitNumber) {
  for_each_variant([&] {
    for (const bool is_f16 : {true, false}) {
      std::vector<float> values;
      for (uint32_t bits = 0; bits < 65536; ++bits) {
        if (values.size() % block_size() == 0) values.push_back(1);
        const auto half = static_cast<uint16_t>(bits);
        const float x = is_f16 ? f16_to_float(half) : bf16_to_float(half);
        if (std::abs(x) <= 1) values.push_back(x);
      }
      check(Numbers(kind(), values));
    }
  });
}

TEST_P(Blockwise8Cpu, AgreesWithTheMathAroundEveryThreshold) {
  for_each_variant([&] {
    std::vector<float> values;
    for (int c = 0; c < 255; ++c) {
      float x = dynamic_table(map()).thresholds[c];
      for (int i = 0; i < 3; ++i) x = std::nextafter(x, -2.0f);
      for (int i = 0; i < 6; ++i, x = std::nextafter(x, 2.0f)) {
        if (values.size() % block_size() == 0) values.push_back(1);
        values.push_back(x);
      }
    }
    check(Numbers(kind(), values));
  });
}

/// The look-up's buckets start and end at numbers whose lower 16 bits are all clear or all set.
TEST_P(Blockwise8Cpu, AgreesWithTheMathAtTheEdgesOfTheBuckets) {
  for_each_variant([&] {
    std::vector<float> values;
    for (uint32_t upper = 0x3300; upper <= 0x3F80; ++upper) {
      for (const uint32_t bits : {upper << 16, (upper << 16) - 1}) {
        if (values.size() % block_size() == 0) values.push_back(1);
        values.push_back(bits_float(bits));
        if (values.size() % block_size() == 0) values.push_back(1);
        values.push_back(-bits_float(bits));
      }
    }
    check(Numbers(kind(), values));
  });
}

TEST_P(Blockwise8Cpu, AgreesWithTheMathOnZeroTinyAndHugeBlocks) {
  for_each_variant([&] {
    const float huge = kind() == FloatKind::kF16 ? 65504.0f : 3.3e38f;
    std::vector<float> values(6 * block_size() + 3, 0.0f);
    const auto block = [&](int64_t b) { return values.data() + b * block_size(); };
    block(0)[1] = -0.0f;
    block(1)[5] = 1e-45f;
    block(1)[6] = -1e-45f;
    block(2)[0] = 2.9e-39f;
    block(2)[1] = -1e-39f;
    block(3)[0] = huge;
    block(3)[1] = -huge / 3;
    block(4)[block_size() - 1] = -1e-38f;
    check(Numbers(kind(), values));
  });
}

TEST_P(Blockwise8Cpu, NamesTheFirstBlockThatIsNotFinite) {
  for_each_variant([&] {
    const testing::UseSimdTarget use(target());
    const int64_t count = 4 * block_size() + 5;
    for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
      for (const int64_t at : {int64_t{0}, 2 * block_size() - 1, count - 1}) {
        Numbers in(kind(), testing::normal_values(count, 3));
        in.set(at, bad);
        std::vector<uint8_t> codes(count);
        std::vector<float> absmax(5);
        int64_t first_bad_block = kNoBadBlock;
        cpu::quantize_blockwise8({in.data(), kind(), count, block_size(), map(), rule(),
                                  codes.data(), absmax.data(), &first_bad_block});
        EXPECT_EQ(first_bad_block, at / block_size());
        EXPECT_EQ(absmax[first_bad_block], 0);
      }
    }
  });
}

TEST_P(Blockwise8Cpu, RestoresWithinHalfAStepOfTheMap) {
  for_each_variant([&] {
    const testing::UseSimdTarget use(target());
    const int64_t count = 20 * block_size();
    auto values = testing::normal_values(count, 9);
    for (float& value : values) value = map() == DynamicMap::kSigned ? value : value * value;
    Numbers in(kind(), values);
    std::vector<uint8_t> codes(count);
    std::vector<float> absmax(20);
    int64_t bad = kNoBadBlock;
    cpu::quantize_blockwise8(
        {in.data(), kind(), count, block_size(), map(), rule(), codes.data(), absmax.data(), &bad});
    Numbers out(FloatKind::kF32, count);
    cpu::dequantize_blockwise8(
        {codes.data(), absmax.data(), count, block_size(), map(), out.data(), FloatKind::kF32});
    const double half_step = map() == DynamicMap::kSigned ? 0.00704 : 0.00352;  // 0.9 / 64 / 2
    testing::DistortionStats stats;
    for (int64_t i = 0; i < count; ++i) {
      stats.add(in.get(i), out.get(i));
      ASSERT_LE(std::abs(double{in.get(i)} - out.get(i)), absmax[i / block_size()] * half_step);
    }
    EXPECT_EQ(stats.sign_flips(), 0);
    EXPECT_GE(stats.exact(), map() == DynamicMap::kSigned ? 4 : 20);  // level 1; there is no -1
    EXPECT_GT(stats.signal_to_noise_db(), 36.0);
  });
}

std::string case_name(const ::testing::TestParamInfo<Parameters>& info) {
  const auto [target, kind, block_size] = info.param;
  return std::string(hwy::TargetName(target)) + "_" + testing::kind_name(kind) + "_" +
         std::to_string(block_size);
}

INSTANTIATE_TEST_SUITE_P(All, Blockwise8Cpu,
                         ::testing::Combine(::testing::ValuesIn(testing::simd_targets()),
                                            ::testing::ValuesIn(testing::kFloatKinds),
                                            ::testing::Values(64, 256, 4096)),
                         case_name);

TEST(Blockwise8CpuThreads, TheThreadCountChangesNoBit) {
  const int64_t count = 500'003;
  Numbers in(FloatKind::kF32, testing::normal_values(count, 4));
  std::vector<std::vector<uint8_t>> codes;
  for (const int threads : {1, 2, 7}) {
    const testing::UseThreads use(threads);
    auto& c = codes.emplace_back(count);
    std::vector<float> absmax((count + 255) / 256);
    int64_t bad = kNoBadBlock;
    cpu::quantize_blockwise8({in.data(), FloatKind::kF32, count, 256, DynamicMap::kSigned,
                              SignRule::kNearest, c.data(), absmax.data(), &bad});
    EXPECT_EQ(c, codes[0]);
  }
}

}  // namespace
}  // namespace qlora::quant
