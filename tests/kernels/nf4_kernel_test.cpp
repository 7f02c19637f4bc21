#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/nf4_backend.h"
#include "tests/kernels/back_end.h"

namespace qlora::quant {
namespace {

using testing::BackEnd;
using testing::Numbers;

constexpr FourBitType kTypes[] = {FourBitType::kNf4, FourBitType::kFp4};

void dequantize(BackEnd back_end, const Nf4DequantArgs& args) {
  back_end == BackEnd::kCpu ? cpu::dequantize_nf4(args) : cuda::dequantize_nf4(args);
}
void quantize(BackEnd back_end, const Nf4QuantArgs& args) {
  back_end == BackEnd::kCpu ? cpu::quantize_nf4(args) : cuda::quantize_nf4(args);
}
void mean(BackEnd back_end, const MeanArgs& args) {
  back_end == BackEnd::kCpu ? cpu::mean(args) : cuda::mean(args);
}

/// Codes and absmax straight from nf4_math.h.
struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> absmax;
};
Quantized expected_codes(Numbers& in, int64_t block_size, FourBitType type) {
  const int64_t count = in.size();
  Quantized q{std::vector<uint8_t>((count + 1) / 2), {}};
  for (int64_t begin = 0; begin < count; begin += block_size) {
    const int64_t end = std::min(count, begin + block_size);
    float absmax = 0;
    for (int64_t i = begin; i < end; ++i) absmax = std::max(absmax, std::abs(in.get(i)));
    const Nf4BlockScale scale = nf4_block_scale(absmax, end - begin < block_size);
    q.absmax.push_back(scale.stored);
    for (int64_t i = begin; i < end; i += 2) {
      const auto code = [&](int64_t e) {
        return four_bit_code(type, e < end ? nf4_normalize(in.get(e), scale) : 0.0f);
      };
      q.codes[i / 2] = four_bit_pack(code(i), code(i + 1));
    }
  }
  return q;
}

class Nf4Kernel : public testing::KernelTest {};

TEST_P(Nf4Kernel, CodesAndScalesAreTheMath) {
  for (const FourBitType type : kTypes) {
    for (const int64_t block_size : {32, 64, 256}) {
      for (const int64_t count : {1, 63, 64, 2049, 5 * 2048 + 131}) {
        auto values = testing::normal_values(count, static_cast<uint32_t>(count + block_size));
        if (count > 300) std::fill_n(values.begin() + 256, 40, 0.0f);  // a block of zeros at 32
        Numbers in(kind(), values);
        const Quantized want = expected_codes(in, block_size, type);
        auto device_in = numbers(in);
        auto codes = filled<uint8_t>((count + 1) / 2, 0xEE);
        auto absmax = filled<float>(static_cast<int64_t>(want.absmax.size()), -1);
        auto bad_block = filled<int64_t>(1, kNoBadBlock);
        quantize(back_end(), {device_in.data(), kind(), count, block_size, type, codes.data(),
                              absmax.data(), bad_block.data()});
        EXPECT_EQ(codes.values(), want.codes) << count << " by " << block_size;
        EXPECT_EQ(absmax.values(), want.absmax) << count << " by " << block_size;
        EXPECT_EQ(bad_block.values()[0], kNoBadBlock);
      }
    }
  }
}

TEST_P(Nf4Kernel, TheFirstBlockThatIsNotFiniteIsFound) {
  constexpr int64_t kCount = 64 * 50 + 3, kBad = 64 * 37 + 12;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
    Numbers in(kind(), testing::normal_values(kCount, 3));
    in.set(kBad, bad);
    in.set(kCount - 1, bad);  // the tail, too
    auto device_in = numbers(in);
    auto codes = filled<uint8_t>((kCount + 1) / 2, 0xEE);
    auto absmax = filled<float>(51, -1);
    auto bad_block = filled<int64_t>(1, kNoBadBlock);
    quantize(back_end(), {device_in.data(), kind(), kCount, 64, FourBitType::kNf4, codes.data(),
                          absmax.data(), bad_block.data()});
    EXPECT_EQ(bad_block.values()[0], 37);
    EXPECT_EQ(absmax.values()[37], 0);
    EXPECT_EQ(codes.values()[37 * 32 + 6], 0);
  }
}

/// Elements [begin, begin + count) against nf4_math.h, with plain or nested scales.
class Nf4DequantizeKernel : public testing::KernelTest {
 protected:
  void expect_range(int64_t total, int64_t begin, int64_t count, FourBitType type, bool is_nested) {
    constexpr int64_t kBlock = 64;
    const int64_t blocks = (total + kBlock - 1) / kBlock, nested = (blocks + 255) / 256;
    const auto codes = testing::random_bytes((total + 1) / 2, static_cast<uint32_t>(total));
    const auto scale_codes = testing::random_bytes(blocks, 5);
    auto absmax = testing::normal_values(is_nested ? nested : blocks, 7, 0.3f);
    Nf4Scales scales = {.absmax = is_nested ? nullptr : absmax.data(),
                        .codes = scale_codes.data(),
                        .nested_absmax = absmax.data(),
                        .offset = is_nested ? 0.0625f : 0};
    Numbers want(kind(), count);
    for (int64_t i = begin; i < begin + count; ++i) {
      want.set(i - begin,
               four_bit_level(type, four_bit_at(codes.data(), i)) * nf4_scale(scales, i / kBlock));
    }
    auto device_codes = array(codes);
    auto device_scale_codes = array(scale_codes);
    auto device_absmax = array(absmax);
    scales.codes = device_scale_codes.data();
    scales.nested_absmax = device_absmax.data();
    if (!is_nested) scales.absmax = device_absmax.data();
    Numbers nothing(kind(), std::vector<float>(static_cast<size_t>(count), 77));
    auto out = numbers(nothing);
    dequantize(back_end(),
               {device_codes.data(), scales, type, kBlock, begin, count, out.data(), kind()});
    EXPECT_TRUE(same_bits(out.values(), want))
        << "[" << begin << ", " << begin + count << ") of " << total;
  }
};

TEST_P(Nf4DequantizeKernel, EveryElementIsTheMath) {
  for (const FourBitType type : kTypes) {
    for (const bool is_nested : {false, true}) {
      for (const int64_t count : {1, 2, 511, 512, 513, 64 * 300 + 17})
        expect_range(count, 0, count, type, is_nested);
    }
  }
}

TEST_P(Nf4DequantizeKernel, RangesMayBeginAndEndInsideAByte) {
  for (const int64_t begin : {0, 1, 62, 511}) {
    for (const int64_t count : {1, 2, 700, 1025})
      expect_range(2000, begin, count, FourBitType::kNf4, true);
    expect_range(10000, begin, 9000, FourBitType::kNf4, true);
  }
}

class MeanKernel : public testing::KernelTest {};

/// The sum in the fixed order of sum_group, on the host.
float expected_mean(const std::vector<float>& values) {
  std::vector<double> sums(values.begin(), values.end());
  do {
    std::vector<double> fewer;
    for (size_t begin = 0; begin < sums.size(); begin += kSumGroup) {
      std::vector<double> group(kSumGroup);
      std::copy_n(sums.begin() + static_cast<int64_t>(begin),
                  std::min<size_t>(kSumGroup, sums.size() - begin), group.begin());
      fewer.push_back(sum_group(group.data()));
    }
    sums = fewer;
  } while (sums.size() > 1);
  return static_cast<float>(sums[0] / static_cast<double>(values.size()));
}

TEST_P(MeanKernel, SumsInTheFixedOrder) {
  for (const int64_t count : {1, 255, 256, 257, 3000, 256 * 256 + 300}) {
    const auto values = testing::normal_values(count, static_cast<uint32_t>(count), 1.0f);
    auto device_values = array(values);
    auto scratch = filled<double>(mean_scratch_size(count), 0);
    auto result = filled<float>(1, 0);
    mean(back_end(), {device_values.data(), count, scratch.data(), result.data()});
    EXPECT_EQ(result.values()[0], expected_mean(values)) << count;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Nf4Kernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);
INSTANTIATE_TEST_SUITE_P(All, Nf4DequantizeKernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);
INSTANTIATE_TEST_SUITE_P(All, MeanKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
