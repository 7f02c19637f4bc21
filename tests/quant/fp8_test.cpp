#include "quant/fp8.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"
#include "quant/layouts.h"
#include "tests/quant/export_fixture.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using testing::ExportFixture;
using testing::message_of;

TEST(Fp8Tensor, QuantizesAsCompressedTensorsDid) {
  const auto weight =
      ExportFixture("orig-k_proj").tensors.at("weight").to(torch::kFloat32);  // [128, 256]
  for (const char* name : {"ct-fp8", "ct-fp8-dyn-kv8"}) {
    SCOPED_TRACE(name);
    const auto expected = from_float_quantized(ExportFixture(name).tensors);
    const auto t = quantize_fp8(weight, expected.per_row() ? Fp8Scaling::kRow : Fp8Scaling::kTensor,
                                expected.scale_type);
    EXPECT_TRUE(torch::equal(t.scales, expected.scales));
    // Its quotient is rounded to f16 before it is rounded to E4M3: a few ties fall otherwise.
    const double differing = (t.codes != expected.codes).to(torch::kFloat64).mean().item<double>();
    EXPECT_LT(differing, 0.01);
    const auto apart = (t.codes.to(torch::kInt32) - expected.codes.to(torch::kInt32)).abs().max();
    EXPECT_LE(apart.item<int>(), 1);
  }
}

TEST(Fp8Tensor, EveryCodeIsDecodedAsTheMathSaysInEveryType) {
  for (const int64_t cols : {1, 7, 16, 33, 256}) {
    Fp8Tensor t;
    t.codes = torch::arange(256, torch::kInt32).repeat({cols}).view({256, cols}).to(torch::kUInt8);
    t.codes.masked_fill_(t.codes.bitwise_and(127) == 127, 5);
    t.scales = torch::rand({256, 1}) * 3;
    for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
      auto out = torch::empty({256, cols}, dtype);
      dequantize_fp8_into(t, out);
      auto expected = torch::empty({256, cols}, torch::kFloat32);
      for (int64_t n = 0; n < 256; ++n) {
        for (int64_t k = 0; k < cols; ++k) {
          expected.mutable_data_ptr<float>()[n * cols + k] =
              fp8_to_float(t.codes.const_data_ptr<uint8_t>()[n * cols + k]) *
              t.scales.const_data_ptr<float>()[n];
        }
      }
      EXPECT_TRUE(testing::same_bytes(out, expected.to(dtype))) << cols;
    }
  }
}

TEST(Fp8Tensor, BadWeightsAreRefused) {
  EXPECT_THROW(quantize_fp8(torch::ones({4}), Fp8Scaling::kRow, ScaleType::kF16), ShapeError);
  EXPECT_THROW(
      quantize_fp8(torch::ones({4, 4}, torch::kFloat16), Fp8Scaling::kRow, ScaleType::kF16),
      ValueError);
  auto weight = torch::ones({4, 4});
  weight[2][1] = NAN;
  EXPECT_SAYS(
      message_of<ValueError>([&] { quantize_fp8(weight, Fp8Scaling::kTensor, ScaleType::kF16); }),
      "row 2");
  weight[2][1] = 1e30f;
  EXPECT_SAYS(
      message_of<ValueError>([&] { quantize_fp8(weight, Fp8Scaling::kRow, ScaleType::kF16); }),
      "another scale type");
  const auto t = quantize_fp8(torch::zeros({4, 4}), Fp8Scaling::kTensor, ScaleType::kF32);
  EXPECT_TRUE(torch::equal(dequantize_fp8(t), torch::zeros({4, 4})));
  EXPECT_THROW(dequantize_fp8_into(t, torch::empty({15})), ShapeError);
  EXPECT_THROW(dequantize_fp8_into(t, torch::empty({16}, torch::kMeta)), DeviceError);
}

}  // namespace
}  // namespace qlora::quant
