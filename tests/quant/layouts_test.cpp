// What other programs wrote is decoded to their numbers and written again to their bytes
// (tests/fixtures/export); what is wrong is refused.
#include "quant/layouts.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "tests/quant/errors.h"
#include "tests/quant/export_fixture.h"

namespace qlora::quant {
namespace {

using testing::difference;
using testing::ExportFixture;
using testing::message_of;
using torch::Tensor;

/// The first rows are what the reference decoder says, which rounds a product of f16 and an integer
/// once, as ours.
void expect_dequant(const Tensor& decoded, const ExportFixture& fixture, double tolerance = 0) {
  ASSERT_EQ(decoded.sizes(), torch::IntArrayRef({128, 256}));
  const double worst = (decoded.narrow(0, 0, 64) - fixture.dequant).abs().max().item<double>();
  EXPECT_LE(worst, tolerance);
}

class GptqFiles : public ::testing::TestWithParam<const char*> {};

TEST_P(GptqFiles, DecodeToTheReferenceAndBackToTheirBytes) {
  const ExportFixture fixture(GetParam());
  const auto format =
      fixture.config.at("checkpoint_format") == "gptq_v2" ? GptqFormat::kV2 : GptqFormat::kV1;
  const auto t = from_gptq(fixture.tensors, format, fixture.config.at("bits"),
                           fixture.config.at("group_size"));
  expect_dequant(dequantize_affine(t), fixture);
  EXPECT_EQ(t.group_of.defined(), fixture.config.at("desc_act").get<bool>());
  EXPECT_EQ(t.options.rule == GridRule::kSymmetric, fixture.config.at("sym").get<bool>());
  EXPECT_EQ(difference(to_gptq(t, format), fixture.tensors), "");
}

INSTANTIATE_TEST_SUITE_P(Export, GptqFiles,
                         ::testing::Values("gptq-w2", "gptq-w3", "gptq-w4-actorder", "gptq-w4-asym",
                                           "gptq-w4-sym", "gptq-w8", "gptqv2-w4-asym"));

TEST(GptqFiles, V1AndV2DifferByOneInEveryZeroPoint) {
  const ExportFixture fixture("gptq-w4-asym");
  const auto v1 = from_gptq(fixture.tensors, GptqFormat::kV1, 4, 128);
  const auto v2 = from_gptq(fixture.tensors, GptqFormat::kV2, 4, 128);
  EXPECT_TRUE(torch::equal(v1.zeros, v2.zeros + 1));
}

TEST(AwqFiles, DecodeToTheReferenceAndBackToTheirBytes) {
  for (const char* name : {"autoawq-gemm", "gptqm-awq"}) {
    SCOPED_TRACE(name);
    const ExportFixture fixture(name);
    const auto t = from_awq_gemm(fixture.tensors, fixture.config.at("group_size"));
    expect_dequant(dequantize_affine(t), fixture);
    EXPECT_EQ(difference(to_awq_gemm(t), fixture.tensors), "");
  }
}

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

TEST(BitsandbytesFiles, DecodeToTheReferenceAndBackToTheirTensors) {
  for (const char* name : {"bnb-nf4", "bnb-nf4-dq"}) {
    SCOPED_TRACE(name);
    const ExportFixture fixture(name);
    const auto t = Nf4Tensor::from_tensors("weight", fixture.tensors);
    expect_dequant(dequantize_nf4(t, torch::kFloat32), fixture, 1e-7);
    const auto written = t.to_tensors("weight");
    EXPECT_EQ(difference(written, fixture.tensors, {"weight.quant_state.bitsandbytes__nf4"}),
              "other tensors than expected");
    EXPECT_EQ(written.size(), fixture.tensors.size());
  }
}

/// Random codes and grids of every width, with zero points from 1 on.
AffineTensor random_affine(int64_t rows, int64_t cols, int64_t bits, int64_t group_size,
                           bool symmetric, ScaleType type = ScaleType::kF16) {
  const int64_t size = group_size == -1 ? cols : group_size, top = (1 << bits) - 1;
  AffineTensor t;
  t.options = {.bits = bits, .group_size = group_size, .scale_type = type};
  t.codes = torch::randint(0, top + 1, {rows, cols}, torch::kUInt8);
  t.scales = (torch::rand({rows, cols / size}) + 0.01)
                 .to(type == ScaleType::kBF16 ? torch::kBFloat16 : torch::kFloat16)
                 .to(torch::kFloat32);
  t.zeros = symmetric ? torch::full({rows, cols / size}, top / 2 + 1, torch::kUInt8)
                      : torch::randint(1, top + 1, {rows, cols / size}, torch::kUInt8);
  return t;
}

void expect_same(const AffineTensor& a, const AffineTensor& b) {
  EXPECT_TRUE(torch::equal(a.codes, b.codes));
  EXPECT_TRUE(torch::equal(a.scales, b.scales));
  EXPECT_TRUE(torch::equal(a.zeros, b.zeros));
  ASSERT_EQ(a.group_of.defined(), b.group_of.defined());
  if (a.group_of.defined()) {
    EXPECT_TRUE(torch::equal(a.group_of, b.group_of));
  }
  EXPECT_EQ(a.options.scale_type, b.options.scale_type);
}

TEST(Layouts, EveryWidthGroupAndOrderComesBack) {
  torch::manual_seed(3);
  for (const int64_t bits : {2, 3, 4, 8}) {
    for (const int64_t size : {int64_t{-1}, int64_t{32}, int64_t{96}}) {
      for (const bool symmetric : {false, true}) {
        for (const bool reordered : {false, true}) {
          AffineTensor t = random_affine(64, 192, bits, size, symmetric);
          if (reordered) {
            if (size == -1) continue;
            const auto order = torch::randperm(192);
            t.group_of = order.floor_divide(size).to(torch::kInt32);
          }
          for (const auto format : {GptqFormat::kV1, GptqFormat::kV2}) {
            expect_same(from_gptq(to_gptq(t, format), format, bits, size), t);
          }
          expect_same(
              from_compressed_tensors(to_compressed_tensors(t, CompressedFormat::kPackQuantized),
                                      CompressedFormat::kPackQuantized, bits),
              t);
          if (bits == 8) {
            expect_same(
                from_compressed_tensors(to_compressed_tensors(t, CompressedFormat::kIntQuantized),
                                        CompressedFormat::kIntQuantized, bits),
                t);
          }
          if (bits == 4 && !reordered) expect_same(from_awq_gemm(to_awq_gemm(t), size), t);
        }
      }
    }
  }
}

TEST(Layouts, OddSizesPackWhereTheLayoutAllowsThem) {
  torch::manual_seed(4);
  for (const int64_t bits : {2, 3, 4, 8}) {
    const AffineTensor t = random_affine(7, 45, bits, 15, false, ScaleType::kBF16);
    expect_same(from_compressed_tensors(to_compressed_tensors(t, CompressedFormat::kPackQuantized),
                                        CompressedFormat::kPackQuantized, bits),
                t);
    EXPECT_THROW(to_gptq(t, GptqFormat::kV2), ShapeError);
  }
}

TEST(Layouts, AShortLastGroupOfGptqIsRead) {
  torch::manual_seed(5);
  AffineTensor t = random_affine(32, 96, 4, 32, false);
  t.group_of = torch::arange(96, torch::kInt32).floor_divide(64).to(torch::kInt32);
  TensorMap tensors = to_gptq(t, GptqFormat::kV1);
  for (const char* name : {"qzeros", "scales"}) {
    tensors[name] = tensors[name].narrow(0, 0, 2).contiguous();
  }
  const auto read = from_gptq(tensors, GptqFormat::kV1, 4, 64);
  EXPECT_TRUE(torch::equal(read.group_of, t.group_of));
  EXPECT_EQ(read.groups(), 2);
  const auto expected =
      (t.codes.to(torch::kFloat32) - t.zeros.index_select(1, t.group_of).to(torch::kFloat32)) *
      t.scales.index_select(1, t.group_of);
  EXPECT_TRUE(torch::equal(dequantize_affine(read), expected));
}

TEST(Layouts, AScaleForTheWholeMatrixServesEveryRow) {
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

TEST(Layouts, LlmInt8RowsAreScaledByTheirGreatest) {
  const TensorMap tensors = {
      {"weight", torch::tensor({127, -127, 64, 0}, torch::kInt8).view({2, 2})},
      {"SCB", torch::tensor({2.0f, 0.5f})}};
  const auto w = dequantize_affine(from_llm_int8(tensors));
  EXPECT_TRUE(torch::allclose(w, torch::tensor({{2.0f, -2.0f}, {0.25196850f, 0.0f}}), 1e-6, 0));
}

TEST(Layouts, WhatALayoutCannotHoldIsRefused) {
  AffineTensor t = random_affine(32, 32, 4, 32, false);
  t.zeros[3][0] = 0;
  EXPECT_SAYS(message_of<ValueError>([&] { to_gptq(t, GptqFormat::kV1); }), "zero point is 0");
  expect_same(from_gptq(to_gptq(t, GptqFormat::kV2), GptqFormat::kV2, 4, 32), t);
  const AffineTensor eight = random_affine(32, 32, 8, 32, true);
  EXPECT_SAYS(message_of<ValueError>([&] { to_awq_gemm(eight); }), "holds 4");
  EXPECT_SAYS(
      message_of<ValueError>([&] { to_compressed_tensors(t, CompressedFormat::kIntQuantized); }),
      "holds 8");
  AffineTensor reordered = random_affine(32, 64, 4, 32, true);
  reordered.group_of = torch::arange(64, torch::kInt32).remainder(2).to(torch::kInt32);
  EXPECT_SAYS(message_of<ShapeError>([&] { to_awq_gemm(reordered); }), "runs of columns");
  AffineTensor wide = random_affine(32, 32, 4, 32, true);
  wide.codes[0][0] = 16;
  EXPECT_SAYS(message_of<ValueError>([&] { to_awq_gemm(wide); }), "at most 15");
  AffineTensor none;
  EXPECT_THROW(to_gptq(none, GptqFormat::kV1), ShapeError);
  AffineTensor uneven = random_affine(32, 32, 4, 32, true);
  uneven.zeros = torch::zeros({32, 2}, torch::kUInt8);
  EXPECT_THROW(to_gptq(uneven, GptqFormat::kV1), ShapeError);
  uneven = random_affine(32, 96, 4, 32, true);
  uneven.scales = uneven.scales.narrow(1, 0, 2).contiguous();
  uneven.zeros = uneven.zeros.narrow(1, 0, 2).contiguous();
  uneven.codes = uneven.codes.narrow(1, 0, 95).contiguous();
  EXPECT_THROW(to_compressed_tensors(uneven, CompressedFormat::kPackQuantized), ShapeError);
  uneven = random_affine(32, 32, 4, 32, true);
  uneven.options.bits = 5;
  EXPECT_THROW(to_compressed_tensors(uneven, CompressedFormat::kPackQuantized), ValueError);
  EXPECT_THROW(to_float_quantized({}), ShapeError);
}

/// Each change of a good file has to be refused with the tensor's name.
TEST(Layouts, DamagedGptqTensorsAreRefusedByName) {
  const ExportFixture fixture("gptq-w4-actorder");
  const auto refused = [&](const char* name, const Tensor& tensor, const char* says,
                           int64_t bits = 4, int64_t group_size = 128) {
    TensorMap tensors = fixture.tensors;
    tensors[name] = tensor;
    std::string text;
    try {
      from_gptq(tensors, GptqFormat::kV1, bits, group_size);
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_NE(text.find(says), std::string::npos) << name << ": " << text;
  };
  const TensorMap& good = fixture.tensors;
  refused("qweight", {}, "qweight is missing");
  refused("scales", {}, "scales is missing");
  refused("qzeros", {}, "qzeros is missing");
  refused("qweight", good.at("qweight").to(torch::kInt64), "qweight is Long");
  refused("qweight", good.at("qweight").view(-1), "2 dimensions");
  refused("qweight", good.at("qweight").narrow(0, 0, 31).contiguous(), "g_idx has shape");
  refused("qweight", good.at("qweight"), "multiple of 3", 3);
  refused("qweight", good.at("qweight"), "bits is 5", 5);
  refused("qweight", good.at("qweight"), "group_size is 0", 4, 0);
  refused("qzeros", good.at("qzeros").narrow(1, 0, 15).contiguous(), "qzeros has shape [2, 15]");
  refused("scales", good.at("scales").to(torch::kInt32), "scales is Int");
  refused("scales", torch::full({2, 128}, NAN, torch::kFloat16), "NaN or infinity");
  refused("scales", torch::ones({0}, torch::kFloat16), "scales has shape");
  refused("g_idx", torch::full({256}, 2, torch::kInt32), "groups 2 to 2, allowed 0 to 1");
  refused("g_idx", torch::full({256}, -1, torch::kInt32), "groups -1");
  refused("g_idx", torch::zeros({255}, torch::kInt32), "g_idx has shape [255]");
}

TEST(Layouts, DamagedTensorsOfTheOthersAreRefusedByName) {
  const ExportFixture awq("autoawq-gemm"), packed("ct-w4a16-asym"), int8("ct-w8a8-sq"),
      fp8("ct-fp8");
  const auto text_of = [](const TensorMap& good, const char* name, const Tensor& tensor,
                          const auto& read) {
    TensorMap tensors = good;
    tensors[name] = tensor;
    try {
      read(tensors);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  const auto read_awq = [](const TensorMap& t) { from_awq_gemm(t, 128); };
  const auto read_packed = [](const TensorMap& t) {
    from_compressed_tensors(t, CompressedFormat::kPackQuantized, 4);
  };
  const auto read_int8 = [](const TensorMap& t) {
    from_compressed_tensors(t, CompressedFormat::kIntQuantized, 8);
  };
  const auto read_fp8 = [](const TensorMap& t) { from_float_quantized(t); };
  EXPECT_SAYS(text_of(awq.tensors, "qzeros", torch::zeros({2, 15}, torch::kInt32), read_awq),
              "qzeros has shape [2, 15]");
  EXPECT_SAYS(text_of(awq.tensors, "scales", torch::ones({2, 127}, torch::kFloat16), read_awq),
              "scales has shape");
  EXPECT_SAYS(message_of<FormatError>([&] { from_awq_gemm(awq.tensors, 100); }), "does not divide");
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
  EXPECT_SAYS(
      message_of<ShapeError>([] {
        from_llm_int8({{"weight", torch::zeros({2, 2}, torch::kInt8)}, {"SCB", torch::ones({3})}});
      }),
      "SCB has shape [3]");
}

/// Shapes, types and numbers at random: an error or an answer, never a crash.
TEST(Layouts, RandomTensorsNeverCrash) {
  std::mt19937 random(7);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % n); };
  const torch::ScalarType types[] = {torch::kInt32, torch::kInt8, torch::kFloat16, torch::kInt64};
  const char* names[] = {
      "qweight",      "qzeros",       "scales",        "g_idx", "weight",
      "weight_scale", "weight_shape", "weight_packed", "SCB",   "weight_zero_point",
      "weight_g_idx", "input_scale"};
  int answers = 0;
  for (int i = 0; i < 4000; ++i) {
    TensorMap tensors;
    const int64_t n = 32 * (1 + below(2)), k = 32 * (1 + below(2)), bits = below(10);
    for (const char* name : names) {
      if (below(12) == 0) continue;
      const int64_t sizes[] = {n, k, 1, 2, k * std::max<int64_t>(bits, 1) / 32, n / 8, below(40)};
      std::vector<int64_t> shape;
      for (int64_t d = below(3); d >= 0; --d) shape.push_back(sizes[below(7)]);
      tensors[name] = torch::randint(-3, 4, shape, types[below(4)]);
    }
    const auto attempt = [&](const auto& read) {
      try {
        read();
        ++answers;
      } catch (const Error&) {
      }
    };
    attempt([&] { dequantize_affine(from_gptq(tensors, GptqFormat::kV1, bits, below(66) - 1)); });
    attempt([&] { dequantize_affine(from_awq_gemm(tensors, below(66) - 1)); });
    attempt([&] {
      dequantize_affine(from_compressed_tensors(
          tensors, below(2) ? CompressedFormat::kPackQuantized : CompressedFormat::kIntQuantized,
          bits));
    });
    attempt([&] { dequantize_fp8(from_float_quantized(tensors)); });
    attempt([&] { dequantize_affine(from_llm_int8(tensors)); });
  }
  EXPECT_GT(answers, 0);  // the mutations are not all refused at the door
}

}  // namespace
}  // namespace qlora::quant
