#include "quant/activations.h"

#include <ATen/core/Generator.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "quant/fp8_math.h"
#include "tests/quant/errors.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

Tensor normal(std::vector<int64_t> shape, uint64_t seed) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

TEST(Activations, RoundEachTokenToItsOwnEightBits) {
  auto x = normal({5, 7, 33}, 7);
  x[2].zero_();
  const auto rounded = rounded_activations_int8(x);
  const auto scale = x.abs().amax({-1}, true) / 127;
  EXPECT_TRUE((rounded - x).abs().le(scale * 0.5001f).all().item<bool>());
  EXPECT_TRUE(torch::equal(rounded[2], torch::zeros({7, 33})));
  const auto steps = rounded[0] / scale[0];
  EXPECT_TRUE(torch::allclose(steps, steps.round(), 0, 1e-3));
  EXPECT_LE(steps.abs().max().item<float>(), 127.001f);
  EXPECT_EQ(rounded_activations_int8(x.to(torch::kBFloat16)).scalar_type(), torch::kBFloat16);
}

TEST(Activations, RoundToTheNumbersOfE4m3) {
  // Every bf16 number from below the least E4M3 number to beyond the greatest, and the halfway
  // points.
  std::vector<float> values;
  for (uint32_t bits = 0x3800; bits < 0x4500; ++bits) {
    values.push_back(bf16_to_float(static_cast<uint16_t>(bits)));
    values.push_back(-values.back());
  }
  const auto x = torch::tensor(values).view({1, -1});
  for (const float scale : {1.0f, 0.25f, 0.3f}) {
    const auto rounded = rounded_activations_fp8(x, torch::tensor({scale}));
    for (size_t i = 0; i < values.size(); ++i) {
      const float cut = std::fmin(std::fmax(values[i] / scale, -kFp8Max), kFp8Max);
      ASSERT_EQ(rounded[0][static_cast<int64_t>(i)].item<float>(),
                fp8_to_float(float_to_fp8(cut)) * scale)
          << values[i];
    }
  }
}

TEST(Activations, GiveEachTokenTheRangeOfE4m3) {
  auto x = normal({6, 40}, 8) * torch::logspace(-12, 12, 6).view({6, 1});
  x[3].zero_();
  const auto rounded = rounded_activations_fp8(x);
  const auto most = x.abs().amax({-1}, true);
  // Three bits behind the leading one: half a unit is 1/16; below the least normal number 2^-10.
  const auto bound = torch::maximum(x.abs() / 16, most / 448 * 0x1p-10) * 1.001;
  EXPECT_TRUE((rounded - x).abs().le(bound).all().item<bool>());
  EXPECT_TRUE(torch::allclose(rounded.abs().amax({-1}, true), most, 1e-6));
  EXPECT_EQ(rounded_activations_fp8(x.to(torch::kFloat16)).scalar_type(), torch::kFloat16);
}

TEST(Activations, KeepNumbersThatAreNotFinite) {
  auto x = normal({3, 8}, 9);
  x[1][2] = std::nanf("");
  for (const auto& rounded : {rounded_activations_int8(x), rounded_activations_fp8(x),
                              rounded_activations_fp8(x, torch::ones({1}))}) {
    EXPECT_TRUE(rounded[1].isnan().any().item<bool>());
    EXPECT_TRUE(rounded[0].isfinite().all().item<bool>());
  }
}

TEST(Activations, RefuseAScaleThatIsNone) {
  const auto x = normal({2, 4}, 10);
  for (const float scale : {0.0f, -1.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    EXPECT_SAYS(testing::message_of<ValueError>(
                    [&] { rounded_activations_fp8(x, torch::tensor({scale})); }),
                "allowed positive and finite");
  }
  EXPECT_SAYS(
      testing::message_of<ShapeError>([&] { rounded_activations_fp8(x, torch::ones({2})); }),
      "shape [2]");
  EXPECT_SAYS(testing::message_of<ShapeError>([&] { rounded_activations_fp8(x, Tensor()); }),
              "none");
}

}  // namespace
}  // namespace qlora::quant
