#include "quant/input_quantizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "quant/fp8_math.h"

namespace qlora::quant {
namespace {

TEST(InputQuantizer, TokensLandOnTheirGrids) {
  torch::manual_seed(4);
  auto x = torch::randn({6, 40});
  x[2].zero_();
  x[3] *= 1e4;
  const auto int8 = round_inputs(x, {InputRounding::kInt8PerToken});
  const auto fp8 = round_inputs(x, {InputRounding::kFp8PerToken});
  const auto fixed = round_inputs(x, {InputRounding::kFp8Static, 0.004f});
  for (int64_t t = 0; t < 6; ++t) {
    const float most = x[t].abs().max().item<float>();
    for (int64_t k = 0; k < 40; ++k) {
      const float value = x[t][k].item<float>();
      const float steps = most > 0 ? int8[t][k].item<float>() / (most / 127.5f) : 0.0f;
      EXPECT_NEAR(steps, std::rint(steps), 1e-3);
      EXPECT_LE(std::abs(int8[t][k].item<float>() - value), 1.001f * most / 127.5f);
      const float scale = most / 448.0f;
      const float expected = most > 0 ? fp8_to_float(float_to_fp8(value / scale)) * scale : 0.0f;
      EXPECT_EQ(fp8[t][k].item<float>(), expected);
      EXPECT_EQ(fixed[t][k].item<float>(), fp8_to_float(float_to_fp8(value / 0.004f)) * 0.004f);
    }
  }
  x[1][7] = 8.0f;
  const auto kept = round_inputs(x.narrow(0, 0, 2),
                                 {.rounding = InputRounding::kInt8WithOutliers, .threshold = 6.0f});
  for (int64_t t = 0; t < 2; ++t) {
    auto rest = x[t].clone();
    if (t == 1) rest[7] = 0;
    const float most = rest.abs().max().item<float>();
    for (int64_t k = 0; k < 40; ++k) {
      const float steps = kept[t][k].item<float>() / (most / 127.0f);
      if (k == 7) {
        EXPECT_EQ(kept[t][k].item<float>(), x[t][k].item<float>());
      } else {
        EXPECT_NEAR(steps, std::rint(x[t][k].item<float>() * (127.0f / most)), 1e-3);
      }
    }
  }
  EXPECT_NE(round_inputs(x.narrow(0, 0, 2), {.rounding = InputRounding::kInt8WithOutliers})[1][6]
                .item<float>(),
            kept[1][6].item<float>());
  EXPECT_EQ(round_inputs(x.to(torch::kBFloat16), {InputRounding::kFp8PerToken}).scalar_type(),
            torch::kBFloat16);
  EXPECT_THROW(round_inputs(torch::ones({3}), {}), ShapeError);
}

}  // namespace
}  // namespace qlora::quant
