// Whole exports with settings of single modules, and of models with other parts.
#include <gtest/gtest.h>

#include <string>

#include "exporter/legality.h"
#include "io/gguf.h"
#include "quant/affine.h"
#include "tests/exporter/export_fixture.h"

namespace qlora::exporter {
namespace {

using namespace qlora::testing;  // the helpers of the tests
using Q = QuantizationType;
using F = ExportFormat;

class ExportSettings : public ExportModel {
 protected:
  void SetUp() override {}  // each test writes the model that it needs
  void write_model() { ExportModel::SetUp(); }
  torch::Tensor source_tensor(const std::string& name) const {
    return loader(folder_ / "model").source().tensor_f32(name);
  }
  torch::Tensor written_weight(const std::string& module) const {
    return loader(out()).weight(module).dense_copy(torch::kFloat32);
  }
  nlohmann::json linear(const std::string& module) const {
    for (const auto& record : log_.linears) {
      if (record.at("module") == module) return record;
    }
    ADD_FAILURE() << "no record of " << module;
    return {};
  }
};

TEST_F(ExportSettings, QuantizedOutputMatrixIsRoundedToNearest) {
  settings_.tied_embeddings = false;
  settings_.vocabulary = 288;  // GPTQ packs 32 rows together
  write_model();
  options_.grid.type = Q::kGptq;
  options_.grid.quantize_lm_head = true;
  const ExportResult result = run();
  expect_complete(result);
  const torch::Tensor original = source_tensor("lm_head.weight");
  const auto grid = affine_options(resolve_grid(options_.grid), 4, 32);
  EXPECT_TRUE(torch::equal(written_weight("lm_head"),
                           quant::dequantize_affine(quant::quantize_affine(original, grid))));
  EXPECT_TRUE(RecordingLog::says(result.report.warnings, "quantize_lm_head"));
}

TEST_F(ExportSettings, UntiedOutputMatrixStaysIn16Bits) {
  settings_.tied_embeddings = false;
  write_model();
  expect_complete(run());
  const torch::Tensor original = source_tensor("lm_head.weight");
  EXPECT_TRUE(
      torch::equal(written_weight("lm_head"), original.to(torch::kHalf).to(torch::kFloat32)));
}

TEST_F(ExportSettings, PatternsDecideBitsGroupsAndWhatIsLeftOut) {
  write_model();
  GridOptions& grid = options_.grid;
  grid.type = Q::kGptq;
  grid.loader = Loader::kGptqmodel;
  grid.bits_pattern = {{"down_proj", 8}, {R"(model\.layers\.1\.self_attn\..*)", 3}};
  grid.group_size_pattern = {{"gate_proj", 64}};
  grid.skip_modules = {"model.layers.2.mlp.up_proj"};
  expect_complete(run());
  const auto bits = [&](const char* name) { return linear(name).at("bits"); };
  EXPECT_EQ(bits("model.layers.0.mlp.down_proj"), 8);
  EXPECT_EQ(bits("model.layers.0.self_attn.q_proj"), 4);
  EXPECT_EQ(bits("model.layers.1.self_attn.q_proj"), 3);
  EXPECT_EQ(bits("model.layers.2.mlp.up_proj"), 16);
  EXPECT_EQ(linear("model.layers.0.mlp.gate_proj").at("group_size"), 64);
  EXPECT_EQ(linear("model.layers.0.mlp.up_proj").at("group_size"), 32);
  const torch::Tensor skipped = source_tensor("model.layers.2.mlp.up_proj.weight");
  EXPECT_TRUE(torch::equal(written_weight("model.layers.2.mlp.up_proj"),
                           skipped.to(torch::kHalf).to(torch::kFloat32)));
  const double eight = linear("model.layers.0.mlp.down_proj").at("sqnr_db");
  const double four = linear("model.layers.0.mlp.up_proj").at("sqnr_db");
  EXPECT_GT(eight, four + 18);  // 6 dB a bit, less what GPTQ gives away for its objective
}

class ExportBiases : public ExportSettings, public ::testing::WithParamInterface<Family> {};

/// A folded scale has to reach the bias of what it is folded into.
TEST_P(ExportBiases, AreKeptWithTheirLinears) {
  settings_.attention_bias = true;
  write_model();
  options_.grid.type = GetParam().type;
  options_.grid.format = GetParam().format;
  options_.grid.bits = GetParam().bits;
  if (GetParam().type == Q::kSmoothquant) options_.grid.group_size = GroupSize::kAuto;
  const ExportResult result = run();
  expect_complete(result);
  EXPECT_LT(*chosen_stage(result.report)->kl_divergence, GetParam().most_kl);
  const std::string bias = "model.layers.1.self_attn.q_proj.bias";
  const torch::Tensor original = source_tensor(bias);
  EXPECT_GT(original.abs().max().item<float>(), 0.05);
  EXPECT_TRUE(torch::allclose(loader(out()).source().tensor_f32(bias), original, 1e-3, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(Every, ExportBiases,
                         ::testing::Values(Family{"Awq", Q::kAwq, F::kAwq, 4, 1.5, 0.6},
                                           Family{"Gptq", Q::kGptq, F::kGptq, 4, 1.5, 0.6},
                                           Family{"Smoothquant", Q::kSmoothquant,
                                                  F::kCompressedTensors, 8, 1.05, 0.02}),
                         [](const auto& info) { return info.param.name; });

TEST_F(ExportSettings, RowsOf256TakeQ4KInGguf) {
  settings_ = {.layers = 1, .width = 256, .mlp_width = 512, .weight_scale = 0.1};
  write_model();
  options_.grid = {.type = Q::kRtn, .format = F::kGguf, .bits = 4};
  const ExportResult result = run();
  expect_complete(result);
  const io::GgufReader file(result.model_path);
  for (const char* name : {"blk.0.attn_q.weight", "blk.0.ffn_down.weight"}) {
    const io::GgufTensor* tensor = file.find_tensor(name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->type, io::GgmlType::kQ4_K) << name;
  }
}

}  // namespace
}  // namespace qlora::exporter
