// What GPTQModel and AutoAWQ wrote is decoded to their numbers and written again to their bytes
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

TEST(GptqFiles, AShortLastGroupIsRead) {
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

/// Each change of a good file has to be refused with the tensor's name.
TEST(GptqFiles, DamagedTensorsAreRefusedByName) {
  const ExportFixture fixture("gptq-w4-actorder");
  const auto refused = [&](const char* name, const Tensor& tensor, const char* says,
                           int64_t bits = 4, int64_t group_size = 128) {
    const TensorMap tensors = damaged(fixture.tensors, name, tensor);
    EXPECT_ERROR(Error, from_gptq(tensors, GptqFormat::kV1, bits, group_size), says) << name;
  };
  const TensorMap& good = fixture.tensors;
  refused("qweight", Tensor(), "qweight is missing");
  refused("scales", Tensor(), "scales is missing");
  refused("qzeros", Tensor(), "qzeros is missing");
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

TEST(AwqFiles, DamagedTensorsAreRefusedByName) {
  const ExportFixture awq("autoawq-gemm");
  const auto text_of = [&](const char* name, const Tensor& tensor) {
    return message_of<Error>([&] { from_awq_gemm(damaged(awq.tensors, name, tensor), 128); });
  };
  EXPECT_SAYS(text_of("qzeros", torch::zeros({2, 15}, torch::kInt32)), "qzeros has shape [2, 15]");
  EXPECT_SAYS(text_of("scales", torch::ones({2, 127}, torch::kFloat16)), "scales has shape");
  EXPECT_SAYS(message_of<FormatError>([&] { from_awq_gemm(awq.tensors, 100); }), "does not divide");
}

}  // namespace
}  // namespace qlora::quant
