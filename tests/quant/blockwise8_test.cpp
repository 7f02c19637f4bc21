#include "quant/blockwise8.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

template <class E, class Call>
void expect_says(const Call& call, const std::string& part) {
  EXPECT_SAYS(testing::message_of<E>(call), part);
}

TEST(Blockwise8, RestoresWithinAStepOfTheMap) {
  const auto values = torch::randn({3, 100, 7});
  for (const auto map : {DynamicMap::kSigned, DynamicMap::kUnsigned}) {
    const auto x = map == DynamicMap::kSigned ? values : values.abs();
    const Blockwise8Tensor t = quantize_blockwise8(x, {.map = map});
    EXPECT_EQ(t.codes.sizes(), x.sizes());
    EXPECT_EQ(t.absmax.numel(), (2100 + 255) / 256);
    const auto error = (dequantize_blockwise8(t) - x).abs().max().item<float>();
    EXPECT_LT(error, t.absmax.max().item<float>() * (map == DynamicMap::kSigned ? 0.0075 : 0.0037));
  }
}

TEST(Blockwise8, AcceptsStridesTypesAndTiles) {
  const auto base = torch::randn({64, 66});
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    const auto x = base.to(dtype).t();
    const Blockwise8Tensor t = quantize_blockwise8(x, {.block_size = 64});
    const Blockwise8Tensor same = quantize_blockwise8(x.contiguous(), {.block_size = 64});
    EXPECT_TRUE(torch::equal(t.codes, same.codes));
    const auto restored = dequantize_blockwise8(t, dtype);
    EXPECT_EQ(restored.scalar_type(), dtype);
    EXPECT_TRUE(torch::equal(restored, dequantize_blockwise8(t).to(dtype)));
    auto out = torch::empty({66 * 64}, dtype);
    dequantize_blockwise8_into(t, out);
    EXPECT_TRUE(torch::equal(out.view({66, 64}), restored));
  }
}

TEST(Blockwise8, KeepsSignsWhereAsked) {
  const auto x = torch::tensor({-1.0f, -1e-9f, 1e-9f, 0.0f});
  const auto nearest = dequantize_blockwise8(quantize_blockwise8(x));
  EXPECT_EQ(nearest[1].item<float>(), 0.0f);
  const auto kept = dequantize_blockwise8(quantize_blockwise8(x, {.sign_rule = SignRule::kKeep}));
  EXPECT_LT(kept[1].item<float>(), 0.0f);
  EXPECT_EQ(kept[2].item<float>(), 0.0f);
  EXPECT_EQ(kept[3].item<float>(), 0.0f);
}

TEST(Blockwise8, RefusesWhatItCannotHold) {
  expect_says<ShapeError>([] { quantize_blockwise8(torch::empty({0})); }, "empty");
  expect_says<ShapeError>([] { quantize_blockwise8(torch::Tensor()); }, "empty");
  expect_says<ValueError>([] { quantize_blockwise8(torch::ones({4}, torch::kInt32)); },
                          "f32, f16 or bf16");
  expect_says<DeviceError>(
      [] { quantize_blockwise8(torch::ones({4}, torch::Device(torch::kMeta))); }, "meta");
  auto x = torch::zeros({1000});
  x[777] = std::numeric_limits<float>::infinity();
  expect_says<ValueError>([&] { quantize_blockwise8(x); }, "element 777 is inf");
  for (const int64_t size : {-1, 0, 32, 100, 8192}) {
    expect_says<ConfigError>([&] { quantize_blockwise8(torch::ones({4}), {.block_size = size}); },
                             "power of two in [64, 4096]");
  }
}

TEST(Blockwise8, RefusesTilesThatDoNotFit) {
  const Blockwise8Tensor t = quantize_blockwise8(torch::ones({6}));
  expect_says<ShapeError>([&] { dequantize_blockwise8_into(t, torch::empty({5})); }, "6 elements");
  expect_says<ShapeError>(
      [&] { dequantize_blockwise8_into(t, torch::empty({12}).slice(0, 0, 12, 2)); },
      "not contiguous");
  expect_says<ValueError>([&] { dequantize_blockwise8_into(t, torch::empty({6}, torch::kInt64)); },
                          "f32, f16 or bf16");
  expect_says<ValueError>([&] { dequantize_blockwise8(t, torch::kFloat64); }, "f32, f16 or bf16");
  expect_says<DeviceError>(
      [&] { dequantize_blockwise8_into(t, torch::empty({6}, torch::Device(torch::kMeta))); },
      "where the codes are");
}

}  // namespace
}  // namespace qlora::quant
