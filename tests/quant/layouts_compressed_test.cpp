// What llm-compressor wrote is decoded to its numbers and written again to its bytes
// (tests/fixtures/export); what is wrong is refused.
#include <gtest/gtest.h>

#include "core/error.h"
#include "quant/layouts.h"
#include "tests/quant/export_fixture.h"
#include "tests/quant/layouts_case.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using testing::damaged;
using testing::difference;
using testing::expect_dequant;
using testing::ExportFixture;
using testing::message_of;
using testing::random_affine;
using torch::Tensor;

TEST(CompressedTensorsFiles, DecodeToTheReferenceAndBackToTheirBytes) {
  for (const char* name : {"ct-w4a16-gptq", "ct-w4a16-asym", "ct-w8a8-sq"}) {
    SCOPED_TRACE(name);
    const ExportFixture fixture(name);
    const bool packed = fixture.config.at("format") == "pack-quantized";
    const auto format = packed ? CompressedFormat::kPackQuantized : CompressedFormat::kIntQuantized;
    const auto t = from_compressed_tensors(fixture.tensors, format, packed ? 4 : 8);
    expect_dequant(dequantize_affine(t), fixture);
    EXPECT_EQ(difference(to_compressed_tensors(t, format), fixture.tensors), "");
  }
}

TEST(FloatQuantizedFiles, DecodeToTheReferenceAndBackToTheirBytes) {
  for (const char* name : {"ct-fp8", "ct-fp8-dyn-kv8"}) {
    SCOPED_TRACE(name);
    const ExportFixture fixture(name);
    const auto t = from_float_quantized(fixture.tensors);
    expect_dequant(dequantize_fp8(t), fixture);
    EXPECT_EQ(t.per_row(), std::string(name) != "ct-fp8");
    EXPECT_EQ(t.input_scale.defined(), std::string(name) == "ct-fp8");
    EXPECT_EQ(difference(to_float_quantized(t), fixture.tensors, {"attn.k_scale", "attn.v_scale"}),
              "");
  }
}

TEST(CompressedTensorsFiles, AScaleForTheWholeMatrixServesEveryRow) {
  const AffineTensor t = random_affine(8, 16, 8, -1, true);
  TensorMap tensors = to_compressed_tensors(t, CompressedFormat::kIntQuantized);
  tensors["weight_scale"] = torch::full({1}, 0.5, torch::kFloat16);
  const auto read = from_compressed_tensors(tensors, CompressedFormat::kIntQuantized, 8);
  EXPECT_TRUE(torch::equal(dequantize_affine(read), (t.codes.to(torch::kFloat32) - 128) * 0.5));
  tensors["weight_zero_point"] = torch::full({1}, 3, torch::kInt8);
  EXPECT_TRUE(torch::equal(
      dequantize_affine(from_compressed_tensors(tensors, CompressedFormat::kIntQuantized, 8)),
      (t.codes.to(torch::kFloat32) - 131) * 0.5));
}

TEST(CompressedTensorsFiles, DamagedTensorsAreRefusedByName) {
  const ExportFixture packed("ct-w4a16-asym"), int8("ct-w8a8-sq"), fp8("ct-fp8");
  const auto text_of = [](const TensorMap& good, const char* name, const Tensor& tensor,
                          const auto& read) {
    return message_of<Error>([&] { read(damaged(good, name, tensor)); });
  };
  const auto read_packed = [](const TensorMap& t) {
    from_compressed_tensors(t, CompressedFormat::kPackQuantized, 4);
  };
  const auto read_int8 = [](const TensorMap& t) {
    from_compressed_tensors(t, CompressedFormat::kIntQuantized, 8);
  };
  const auto read_fp8 = [](const TensorMap& t) { from_float_quantized(t); };
  EXPECT_SAYS(text_of(packed.tensors, "weight_shape", torch::tensor({128, 999999}, torch::kInt64),
                      read_packed),
              "weight_shape says [128, 999999]");
  EXPECT_SAYS(text_of(packed.tensors, "weight_shape",
                      torch::tensor({int64_t{128}, INT64_MAX}, torch::kInt64), read_packed),
              "weight_shape says");
  EXPECT_SAYS(
      text_of(packed.tensors, "weight_shape", torch::tensor({128}, torch::kInt64), read_packed),
      "weight_shape has shape [1]");
  EXPECT_SAYS(text_of(packed.tensors, "weight_zero_point", torch::zeros({16, 3}, torch::kInt32),
                      read_packed),
              "weight_zero_point has shape [16, 3]");
  EXPECT_SAYS(text_of(packed.tensors, "weight_zero_point", torch::zeros({16, 2}, torch::kFloat32),
                      read_packed),
              "allowed I32 and I8");
  EXPECT_SAYS(
      text_of(packed.tensors, "weight_zero_point", torch::zeros({3}, torch::kInt8), read_packed),
      "weight_zero_point has shape [3]");
  EXPECT_SAYS(
      text_of(packed.tensors, "weight_zero_point", torch::full({1}, 8, torch::kInt8), read_packed),
      "leaves 4 bits");
  EXPECT_SAYS(
      text_of(packed.tensors, "weight_scale", torch::ones({128, 3}, torch::kFloat16), read_packed),
      "3 groups");
  EXPECT_SAYS(
      text_of(packed.tensors, "weight_scale", torch::ones({64, 2}, torch::kFloat16), read_packed),
      "weight_scale has shape [64, 2]");
  EXPECT_SAYS(message_of<FormatError>([&] {
                from_compressed_tensors(int8.tensors, CompressedFormat::kIntQuantized, 4);
              }),
              "holds 8");
  EXPECT_SAYS(text_of(int8.tensors, "weight", {}, read_int8), "weight is missing");
  Tensor nan = fp8.tensors.at("weight").view(torch::kUInt8).clone();
  nan[5][5] = 0xFF;
  EXPECT_SAYS(text_of(fp8.tensors, "weight", nan.view(torch::kFloat8_e4m3fn), read_fp8),
              "holds NaN");
  EXPECT_SAYS(text_of(fp8.tensors, "weight_scale", torch::ones({3}, torch::kFloat16), read_fp8),
              "weight_scale has shape [3]");
  EXPECT_SAYS(text_of(fp8.tensors, "input_scale", torch::zeros({1}, torch::kFloat16), read_fp8),
              "positive");
}

TEST(LlmInt8, RowsAreScaledByTheirGreatest) {
  const TensorMap tensors = {
      {"weight", torch::tensor({127, -127, 64, 0}, torch::kInt8).view({2, 2})},
      {"SCB", torch::tensor({2.0f, 0.5f})}};
  const auto w = dequantize_affine(from_llm_int8(tensors));
  EXPECT_TRUE(torch::allclose(w, torch::tensor({{2.0f, -2.0f}, {0.25196850f, 0.0f}}), 1e-6, 0));
  EXPECT_SAYS(
      message_of<ShapeError>([] {
        from_llm_int8({{"weight", torch::zeros({2, 2}, torch::kInt8)}, {"SCB", torch::ones({3})}});
      }),
      "SCB has shape [3]");
}

}  // namespace
}  // namespace qlora::quant
