// Layouts of all kinds: what is written comes back, what cannot be written or read is refused.
#include "quant/layouts.h"

#include <gtest/gtest.h>

#include <random>

#include "core/error.h"
#include "tests/quant/export_fixture.h"
#include "tests/quant/layouts_case.h"
#include "tests/support/errors.h"
#include "tests/support/fuzz.h"

namespace qlora::quant {
namespace {

using testing::difference;
using testing::expect_dequant;
using testing::expect_same;
using testing::ExportFixture;
using testing::message_of;
using testing::random_affine;

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
  uneven = random_affine(32, 64, 4, 32, true);
  uneven.group_of = torch::full({64}, 2, torch::kInt32);
  EXPECT_SAYS(message_of<ValueError>([&] { to_gptq(uneven, GptqFormat::kV1); }),
              "group_of holds 2 to 2, allowed 0 to 1");
  uneven = random_affine(32, 32, 4, 32, true);
  uneven.codes = uneven.codes.to(torch::kMeta);
  EXPECT_SAYS(message_of<DeviceError>([&] { to_gptq(uneven, GptqFormat::kV1); }),
              "is on device meta, allowed cpu");
  uneven = random_affine(32, 32, 4, 32, true);
  uneven.options.bits = 5;
  EXPECT_THROW(to_compressed_tensors(uneven, CompressedFormat::kPackQuantized), ValueError);
  EXPECT_THROW(to_float_quantized({}), ShapeError);
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
      } catch (const Error& error) {
        test::expect_one_line(error);
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
