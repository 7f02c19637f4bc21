// LoRA's operations, all bit-exact.
#include <cmath>
#include <limits>

#include "core/rng.h"
#include "lora/dropout_backend.h"
#include "lora/lora_sum_backend.h"
#include "lora/merge_backend.h"
#include "tests/kernels/back_end.h"
#include "tests/kernels/bounds.h"

namespace qlora::lora {
namespace {

using testing::Numbers;
using testing::Placed;

class LoraKernel : public testing::KernelTest {
 protected:
  Numbers random(int64_t count, uint32_t seed) const {
    return {kind(), testing::normal_values(count, seed, 1)};
  }
};

TEST_P(LoraKernel, SumsAreRoundedOnce) {
  for (const FloatKind out_kind : testing::kFloatKinds) {
    for (const auto& [tokens, width, offset] :
         std::vector<std::tuple<int64_t, int64_t, int64_t>>{{3, 64, 0}, {70, 72, 0}, {5, 13, 1}}) {
      Numbers base = random(tokens * width, 1), delta = random(tokens * width, 2);
      const auto bias = testing::normal_values(width, 3, 1);
      for (const bool has_delta : {false, true}) {
        for (const bool has_bias : {false, true}) {
          Numbers want(out_kind, tokens * width);
          for (int64_t i = 0; i < tokens * width; ++i) {
            float sum = base.get(i);
            if (has_delta) sum += delta.get(i);
            if (has_bias) sum += bias[i % width];
            want.set(i, sum);
          }
          Placed b(GetParam(), base, offset), d(GetParam(), delta, offset);
          auto n = testing::placed_floats(GetParam(), bias, offset);
          Placed y({back_end(), out_kind}, Numbers(out_kind, tokens * width), offset);
          const LoraSumArgs args{b.data(),
                                 has_delta ? d.data() : nullptr,
                                 has_bias ? n.floats() : nullptr,
                                 y.data(),
                                 tokens,
                                 width,
                                 kind(),
                                 out_kind};
          is_cuda() ? cuda::lora_sum(args) : cpu::lora_sum(args);
          EXPECT_TRUE(testing::same_bits(y.values(), want)) << tokens << " x " << width;
        }
      }
    }
  }
}

TEST_P(LoraKernel, DropoutDrawsTheSameElements) {
  constexpr uint64_t kSeed = 0x123456789ABCDEF0, kStream = 0xFEDCBA9876543210;
  for (const double p : {0.0, 0.1, 0.5, 0.99}) {
    for (const auto& [count, offset] :
         std::vector<std::tuple<int64_t, int64_t>>{{2048, 0}, {4099, 0}, {37, 1}}) {
      Numbers x = random(count, 5), want(kind(), count);
      x.set(7, std::numeric_limits<float>::infinity());
      for (int64_t i = 0; i < count; ++i) {
        const PhiloxBlock words = philox4x32(static_cast<uint64_t>(i / 8), kStream, kSeed);
        const uint32_t draw = words.word[i / 2 % 4] >> (i % 2 * 16) & 0xFFFF;
        want.set(i, draw < p * 65536 ? 0 : x.get(i) * static_cast<float>(1 / (1 - p)));
      }
      Placed in(GetParam(), x, offset), y(GetParam(), Numbers(kind(), count), offset);
      const DropoutArgs args{in.data(), y.data(), count, p, kSeed, kStream, kind()};
      is_cuda() ? cuda::dropout(args) : cpu::dropout(args);
      EXPECT_TRUE(testing::same_bits(y.values(), want)) << p << ", " << count;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, LoraKernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);

class MergeKernel : public testing::KernelTest {};

TEST_P(MergeKernel, EveryStepIsFusedInItsOrder) {
  for (const auto& [rows, cols, rank, offset] :
       std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t>>{
           {3, 64, 8, 0}, {40, 36, 5, 0}, {7, 13, 1, 0}, {2, 16, 3, 1}}) {
    const auto w = testing::normal_values(rows * cols, 1),
               a = testing::normal_values(rank * cols, 2);
    const auto b = testing::normal_values(rows * rank, 3);
    std::vector<float> want;
    for (int64_t i = 0; i < rows * cols; ++i) {
      float d = 0;
      for (int64_t r = 0; r < rank; ++r) {
        d = std::fma(b[i / cols * rank + r], a[r * cols + i % cols], d);
      }
      want.push_back(std::fma(1.5f, d, w[i]));
    }
    auto pw = testing::placed_floats(GetParam(), w, offset);
    auto pa = testing::placed_floats(GetParam(), a, offset);
    auto pb = testing::placed_floats(GetParam(), b, offset);
    auto out = testing::placed_floats(GetParam(), std::vector<float>(rows * cols, 77), offset);
    const MergeArgs args{pw.floats(), pa.floats(), pb.floats(), out.floats(),
                         rows,        cols,        rank,        1.5f};
    is_cuda() ? cuda::merge(args) : cpu::merge(args);
    EXPECT_TRUE(testing::same_bits(out.values(), Numbers(FloatKind::kF32, want)));
  }
}

INSTANTIATE_TEST_SUITE_P(, MergeKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::lora
