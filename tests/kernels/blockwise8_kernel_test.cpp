#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/blockwise8_backend.h"
#include "tests/kernels/back_end.h"

namespace qlora::quant {
namespace {

using testing::BackEnd;
using testing::Numbers;

constexpr DynamicMap kMaps[] = {DynamicMap::kSigned, DynamicMap::kUnsigned};

void quantize(BackEnd back_end, const Blockwise8QuantArgs& args) {
  back_end == BackEnd::kCpu ? cpu::quantize_blockwise8(args) : cuda::quantize_blockwise8(args);
}
void dequantize(BackEnd back_end, const Blockwise8DequantArgs& args) {
  back_end == BackEnd::kCpu ? cpu::dequantize_blockwise8(args) : cuda::dequantize_blockwise8(args);
}

class Blockwise8Kernel : public testing::KernelTest {
 protected:
  /// Codes and absmax against blockwise8_math.h.
  void expect_codes(const std::vector<float>& values, int64_t block_size, DynamicMap map,
                    SignRule rule) {
    Numbers in(kind(), values);
    const int64_t count = in.size(), blocks = (count + block_size - 1) / block_size;
    std::vector<uint8_t> want_codes(count);
    std::vector<float> want_absmax(blocks);
    for (int64_t i = 0; i < count; ++i) {
      want_absmax[i / block_size] = std::max(want_absmax[i / block_size], std::abs(in.get(i)));
    }
    for (int64_t i = 0; i < count; ++i) {
      const auto scale = blockwise8_scale(want_absmax[i / block_size]);
      want_codes[i] = blockwise8_code(dynamic_table(map), in.get(i), scale, rule);
    }
    auto device_in = numbers(in);
    auto codes = filled<uint8_t>(count, 0xEE);
    auto absmax = filled<float>(blocks, -1);
    auto bad_block = filled<int64_t>(1, kNoBadBlock);
    quantize(back_end(), {device_in.data(), kind(), count, block_size, map, rule, codes.data(),
                          absmax.data(), bad_block.data()});
    EXPECT_EQ(codes.values(), want_codes) << count << " by " << block_size;
    EXPECT_EQ(absmax.values(), want_absmax) << count << " by " << block_size;
    EXPECT_EQ(bad_block.values()[0], kNoBadBlock);
  }
};

TEST_P(Blockwise8Kernel, CodesAndScalesAreTheMath) {
  for (const DynamicMap map : kMaps) {
    for (const SignRule rule : {SignRule::kNearest, SignRule::kKeep}) {
      for (const int64_t count : {1, 255, 256, 1000, 4096 + 19}) {
        auto values = testing::normal_values(count, static_cast<uint32_t>(count), 1.0f);
        if (count > 900) std::fill_n(values.begin() + 256, 256, 0.0f);
        if (map == DynamicMap::kUnsigned) {
          for (float& v : values) v = std::abs(v);
        }
        for (const int64_t block_size : {64, 256, 4096})
          expect_codes(values, block_size, map, rule);
      }
    }
  }
}

TEST_P(Blockwise8Kernel, TheFirstBlockThatIsNotFiniteIsFound) {
  constexpr int64_t kCount = 256 * 9 + 5;
  Numbers in(kind(), testing::normal_values(kCount, 3));
  in.set(256 * 4 + 255, std::numeric_limits<float>::quiet_NaN());
  in.set(kCount - 1, -HUGE_VALF);
  auto device_in = numbers(in);
  auto codes = filled<uint8_t>(kCount, 0xEE);
  auto absmax = filled<float>(10, -1);
  auto bad_block = filled<int64_t>(1, kNoBadBlock);
  quantize(back_end(), {device_in.data(), kind(), kCount, 256, DynamicMap::kSigned,
                        SignRule::kNearest, codes.data(), absmax.data(), bad_block.data()});
  EXPECT_EQ(bad_block.values()[0], 4);
  EXPECT_EQ(absmax.values()[4], 0);
}

TEST_P(Blockwise8Kernel, EveryCodeDecodesToItsLevel) {
  for (const DynamicMap map : kMaps) {
    for (const int64_t count : {1, 256, 256 * 5 + 100, 8192 * 2 + 77}) {
      std::vector<uint8_t> codes(count);
      for (int64_t i = 0; i < count; ++i) codes[i] = static_cast<uint8_t>(i);
      const auto absmax = testing::normal_values((count + 63) / 64, 9, 2.0f);
      Numbers want(kind(), count);
      for (int64_t i = 0; i < count; ++i) {
        want.set(i, blockwise8_value(dynamic_table(map), codes[i], absmax[i / 64]));
      }
      auto device_codes = array(codes);
      auto device_absmax = array(absmax);
      Numbers nothing(kind(), count);
      auto out = numbers(nothing);
      dequantize(back_end(),
                 {device_codes.data(), device_absmax.data(), count, 64, map, out.data(), kind()});
      EXPECT_TRUE(same_bits(out.values(), want)) << count;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Blockwise8Kernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
