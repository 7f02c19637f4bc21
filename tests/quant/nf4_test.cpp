#include "quant/nf4.h"

#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "core/fields.h"
#include "quant/nf4_math.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using testing::message_of;

torch::Tensor normal(const std::vector<int64_t>& shape, uint64_t seed = 1) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed)) * 0.02;
}

/// w = level * scale in torch: the plain composition that the kernels are judged by.
torch::Tensor composed(const Nf4Tensor& t) {
  auto scales = t.absmax;
  if (t.is_double_quantized()) {
    auto map = torch::empty({256}, torch::kFloat32);
    for (int c = 0; c < 256; ++c) map[c] = signed_dynamic_table().levels[c];
    const auto nested = t.nested_absmax.repeat_interleave(kNestedBlockSize);
    scales = map.index({t.absmax_codes.to(torch::kInt64)}) *
                 nested.narrow(0, 0, t.absmax_codes.numel()) +
             t.offset;
  }
  auto levels = torch::empty({16}, torch::kFloat32);
  for (int c = 0; c < 16; ++c) levels[c] = four_bit_level(t.quant_type, c);
  const auto bytes = t.codes.to(torch::kInt64);
  const auto codes = torch::stack({bytes / 16, bytes % 16}, 1).view(-1).narrow(0, 0, t.numel());
  const auto weights = levels.index({codes.to(torch::kInt64)}) *
                       scales.repeat_interleave(t.block_size).narrow(0, 0, t.numel());
  return weights.view({t.rows(), t.cols()});
}

TEST(Nf4, DequantizesToWhatTorchComposes) {
  for (const auto& shape :
       std::vector<std::vector<int64_t>>{{64, 64}, {7, 13}, {1, 1}, {300, 96}}) {
    for (const auto type : {FourBitType::kNf4, FourBitType::kFp4}) {
      for (const bool double_quant : {false, true}) {
        for (const int64_t block_size : {32, 64, 4096}) {
          const Nf4Tensor t = quantize_nf4(
              normal(shape),
              {.quant_type = type, .block_size = block_size, .double_quant = double_quant});
          EXPECT_EQ(t.is_double_quantized(), double_quant);
          const auto expected = composed(t);
          for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
            EXPECT_TRUE(torch::equal(dequantize_nf4(t, dtype), expected.to(dtype)));
          }
        }
      }
    }
  }
}

TEST(Nf4, TakesFourPointOneTwoSevenBitsPerWeight) {
  const Nf4Tensor nested = quantize_nf4(normal({1024, 1024}));
  EXPECT_EQ(nested.size_bytes(), 1024 * 1024 / 2 + 1024 * 1024 / 64 + 64 * 4);
  EXPECT_NEAR(8.0 * nested.size_bytes() / nested.numel(), 4.127, 0.001);
  const Nf4Tensor plain = quantize_nf4(normal({1024, 1024}), {.double_quant = false});
  EXPECT_NEAR(8.0 * plain.size_bytes() / plain.numel(), 4.5, 1e-9);
}

TEST(Nf4, RoundsADoubleQuantizedMatrixByLittleMoreThanAPlainOne) {
  const auto weight = normal({512, 512});
  const auto error = [&](bool double_quant) {
    const auto t = quantize_nf4(weight, {.double_quant = double_quant});
    return (dequantize_nf4(t, torch::kFloat32) - weight).square().mean().item<double>();
  };
  EXPECT_LT(error(true), 1.02 * error(false));
  EXPECT_GT(error(true), 0.98 * error(false));
  EXPECT_LT(error(false), 0.0095 * 0.02 * 0.02);  // about 20.7 dB below the signal
}

TEST(Nf4, AcceptsStridesAndTypesAndRemembersTheType) {
  const auto base = normal({96, 130});
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    const auto strided = base.to(dtype).t().slice(0, 1, 129, 2);
    ASSERT_FALSE(strided.is_contiguous());
    const Nf4Tensor a = quantize_nf4(strided);
    const Nf4Tensor b = quantize_nf4(strided.contiguous());
    EXPECT_TRUE(torch::equal(a.codes, b.codes));
    EXPECT_TRUE(torch::equal(a.absmax_codes, b.absmax_codes));
    EXPECT_EQ(a.offset, b.offset);
    EXPECT_EQ(a.source_dtype, dtype);
    EXPECT_EQ(a.rows(), 64);
    EXPECT_EQ(a.cols(), 96);
  }
}

TEST(Nf4, LeavesTheWeightAloneAndKeepsNoGraph) {
  auto weight = normal({64, 64}).requires_grad_();
  const auto copy = weight.detach().clone();
  const Nf4Tensor t = quantize_nf4(weight);
  EXPECT_TRUE(torch::equal(weight.detach(), copy));
  EXPECT_FALSE(t.codes.requires_grad());
  EXPECT_FALSE(t.nested_absmax.requires_grad());
}

TEST(Nf4, DequantizesRowsIntoATile) {
  for (const int64_t cols : {64, 96, 33}) {
    const Nf4Tensor t = quantize_nf4(normal({50, cols}));
    const auto all = dequantize_nf4(t, torch::kBFloat16);
    auto tile = torch::full({16, cols}, -5.0, torch::kBFloat16);
    for (int64_t begin = 0; begin < 50; begin += 16) {
      const int64_t count = std::min<int64_t>(16, 50 - begin);
      dequantize_nf4_rows_into(t, begin, count, tile.narrow(0, 0, count));
      EXPECT_TRUE(torch::equal(tile.narrow(0, 0, count), all.narrow(0, begin, count)));
    }
    const auto last = tile.narrow(0, 2, 14);  // the last tile had two rows: the rest is older
    EXPECT_TRUE(torch::equal(last, all.narrow(0, 34, 14)));
    dequantize_nf4_rows_into(t, 50, 0, tile.narrow(0, 0, 0));
    const auto flat = torch::empty({50 * cols}, torch::kBFloat16);
    dequantize_nf4_into(t, flat);
    EXPECT_TRUE(torch::equal(flat.view({50, cols}), all));
  }
}

TEST(Nf4, RefusesShapes) {
  for (const auto& weight : {torch::zeros({4}), torch::zeros({2, 2, 2}), torch::zeros({0, 8}),
                             torch::zeros({8, 0}), torch::Tensor()}) {
    EXPECT_SAYS(message_of<ShapeError>([&] { quantize_nf4(weight); }), "[quant] weight has shape");
  }
}

TEST(Nf4, RefusesWhatIsNotFiniteWithItsPlace) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
      auto weight = normal({40, 96}).to(dtype);
      weight[17][5] = bad;
      weight[39][95] = bad;
      EXPECT_SAYS(message_of<ValueError>([&] { quantize_nf4(weight); }), "element [17, 5] is");
    }
  }
}

TEST(Nf4, RefusesTypesDevicesAndBlockSizes) {
  EXPECT_SAYS(message_of<ValueError>([&] {
                quantize_nf4(torch::ones({8, 8}, torch::kFloat64));
              }),
              "f32, f16 or bf16");
  EXPECT_SAYS(message_of<ValueError>([&] {
                quantize_nf4(torch::ones({8, 8}, torch::kInt8));
              }),
              "f32, f16 or bf16");
  EXPECT_SAYS(message_of<DeviceError>([&] {
                quantize_nf4(torch::ones({8, 8}, torch::Device(torch::kMeta)));
              }),
              "meta");
  for (const int64_t size : {-64, 0, 16, 48, 65, 8192}) {
    EXPECT_SAYS(message_of<ConfigError>([&] {
                  quantize_nf4(torch::ones({8, 8}), {.block_size = size});
                }),
                "power of two in [32, 4096]");
  }
}

TEST(Nf4, RefusesTilesThatDoNotFit) {
  const Nf4Tensor t = quantize_nf4(normal({10, 8}));
  const auto into = [&](const torch::Tensor& out) { dequantize_nf4_into(t, out); };
  EXPECT_SAYS(message_of<ShapeError>([&] { into(torch::empty({9, 8})); }), "10 x 8");
  EXPECT_SAYS(message_of<ShapeError>([&] { into(torch::empty({8, 10}).t()); }), "contiguous");
  EXPECT_SAYS(message_of<ValueError>([&] {
                into(torch::empty({10, 8}, torch::kFloat64));
              }),
              "f32, f16 or bf16");
  EXPECT_SAYS(message_of<ValueError>([&] { dequantize_nf4(t, torch::kInt32); }), "f32, f16 or");
  EXPECT_SAYS(message_of<DeviceError>([&] {
                into(torch::empty({10, 8}, torch::Device(torch::kMeta)));
              }),
              "where the weight is");
  for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{
           {-1, 2}, {9, 2}, {11, 0}, {0, -1}, {5, INT64_MAX}}) {
    EXPECT_SAYS(message_of<ShapeError>([&, b = begin, c = count] {
                  dequantize_nf4_rows_into(t, b, c, torch::empty({2, 8}));
                }),
                "[0, 10)");
  }
}

TEST(Nf4, MovesToADevice) {
  const Nf4Tensor t = quantize_nf4(normal({8, 8}));
  const Nf4Tensor moved = t.to(torch::kCPU);
  EXPECT_TRUE(torch::equal(moved.codes, t.codes));
  EXPECT_EQ(moved.offset, t.offset);
  EXPECT_FALSE(moved.is_cuda());
}

TEST(Nf4, OptionsAreReadByName) {
  Nf4Options options;
  read_fields(Json::parse(R"({"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": false})"),
              options, "test");
  EXPECT_EQ(options.quant_type, FourBitType::kFp4);
  EXPECT_FALSE(options.double_quant);
  EXPECT_EQ(options.block_size, 64);
}

}  // namespace
}  // namespace qlora::quant
