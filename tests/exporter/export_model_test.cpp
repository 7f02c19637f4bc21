// Whole exports of a tiny model: every family of type, format and bits; adapters.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <vector>

#include "lora/merge.h"
#include "quant/nf4.h"
#include "tests/exporter/export_fixture.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using namespace qlora::testing;  // the helpers of the tests

class ExportFamily : public ExportModel, public ::testing::WithParamInterface<Family> {};

TEST_P(ExportFamily, LoadsAsItWasSolvedAndStaysNearTheBase) {
  const Family& family = GetParam();
  GridOptions& grid = options_.grid;
  grid.type = family.type;
  grid.format = family.format;
  grid.bits = family.bits;
  grid.symmetric = family.symmetric;
  grid.static_fp8 = family.static_fp8;
  grid.gguf_type = family.gguf;
  options_.gptq.desc_act = family.desc_act;
  const bool has_groups =
      family.type != QuantizationType::kSmoothquant && family.type != QuantizationType::kFp8 &&
      family.type != QuantizationType::kNone && family.format != ExportFormat::kNf4 &&
      family.format != ExportFormat::kGguf;
  if (!has_groups) grid.group_size = GroupSize::kAuto;
  const ExportResult result = run();
  expect_complete(result);
  EXPECT_EQ(result.report.layers.size(), 7U * settings_.layers);
  const StageResult& base = *find_stage(result.report, StageKind::kBase16);
  const StageResult& chosen = *chosen_stage(result.report);
  EXPECT_LT(std::abs(std::log(*chosen.perplexity / *base.perplexity)), std::log(family.most_ratio));
  EXPECT_LT(*chosen.kl_divergence, family.most_kl);
  EXPECT_GT(*chosen.kl_divergence, -1e-6);
  if (family.bits.value_or(8) < 8) {
    EXPECT_LT(*chosen.bytes, *base.bytes);
  }
}

using Q = QuantizationType;
using F = ExportFormat;
INSTANTIATE_TEST_SUITE_P(
    Every, ExportFamily,
    ::testing::Values(
        Family{"AwqAwq4", Q::kAwq, F::kAwq, 4, 1.5, 0.6},
        Family{"AwqGptq8", Q::kAwq, F::kGptq, 8, 1.01, 0.01},
        Family{"AwqCompressed4", Q::kAwq, F::kCompressedTensors, 4, 1.5, 0.6},
        Family{"GptqGptqSymmetric4", Q::kGptq, F::kGptq, 4, 1.5, 0.6, true},
        Family{"GptqGptqAsymmetric4", Q::kGptq, F::kGptq, 4, 1.5, 0.6, false},
        Family{"GptqGptqDescAct4", Q::kGptq, F::kGptq, 4, 1.5, 0.6, false, true},
        Family{"GptqGptq2", Q::kGptq, F::kGptq, 2, 9, 3, false},
        Family{"GptqGptq3", Q::kGptq, F::kGptq, 3, 2, 1, false},
        Family{"GptqGptq8", Q::kGptq, F::kGptq, 8, 1.01, 0.01},
        Family{"GptqV2Asymmetric4", Q::kGptq, F::kGptqV2, 4, 1.5, 0.6, false},
        Family{"GptqAwq4", Q::kGptq, F::kAwq, 4, 1.5, 0.6},
        Family{"GptqCompressed4", Q::kGptq, F::kCompressedTensors, 4, 1.5, 0.6},
        Family{"GptqCompressed8", Q::kGptq, F::kCompressedTensors, 8, 1.01, 0.01},
        Family{"Smoothquant", Q::kSmoothquant, F::kCompressedTensors, 8, 1.05, 0.02},
        Family{"Fp8Dynamic", Q::kFp8, F::kCompressedTensors, 8, 1.1, 0.12},
        Family{"Fp8Static", Q::kFp8, F::kCompressedTensors, 8, 1.1, 0.12, {}, false, true},
        Family{"Rtn4", Q::kRtn, F::kGptq, 4, 1.5, 0.6},
        Family{"RtnAwq4", Q::kRtn, F::kAwq, 4, 1.5, 0.6},
        Family{"Nf4", Q::kRtn, F::kNf4, 4, 1.5, 0.6},
        Family{"Hf", Q::kNone, F::kHf, {}, 1.001, 1e-5},
        Family{"GgufF16", Q::kNone, F::kGguf, {}, 1.001, 1e-5, {}, false, false, GgufType::kF16},
        Family{"GgufQ8", Q::kRtn, F::kGguf, 8, 1.02, 0.01, {}, false, false, GgufType::kQ8_0},
        Family{"GgufQ4", Q::kRtn, F::kGguf, 4, 1.5, 0.6, {}, false, false, GgufType::kQ4_0}),
    [](const auto& info) { return info.param.name; });

TEST_F(ExportModel, HfWithoutAdapterIsTheSource) {
  options_.grid = {.type = Q::kNone};
  run();
  const auto before = loader(folder_ / "model"), after = loader(out());
  for (const std::string& name : before.checkpoint().names()) {
    EXPECT_TRUE(torch::equal(before.source().tensor_f32(name), after.source().tensor_f32(name)))
        << name;
  }
}

TEST_F(ExportModel, MergesIntoEitherBase) {
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  options_.grid = {.type = Q::kNone};
  const auto adapter = lora::read_peft_adapter(source_.adapter);
  const auto before = loader(folder_ / "model");
  for (const MergeBase base : {MergeBase::kOriginal, MergeBase::kNf4}) {
    options_.merge_base = base;
    options_.overwrite = true;
    const ExportResult result = run();
    EXPECT_EQ(result.merge_base, base);
    const auto after = loader(out());
    for (const auto& [module, m] : adapter.modules) {
      torch::Tensor weight = before.source().tensor_f32(module + ".weight");
      if (base == MergeBase::kNf4) {
        weight =
            quant::dequantize_nf4(quant::quantize_nf4(weight, source_.four_bit), torch::kFloat32);
      }
      const torch::Tensor merged = weight + 2 * torch::mm(m.b, m.a);
      const torch::Tensor got = after.source().tensor_f32(module + ".weight");
      // Half a unit in the last place of BF16, and of the sum's own rounding.
      EXPECT_TRUE(((got - merged).abs() <= merged.abs() * 0x1.02p-8f + 1e-6).all().item<bool>())
          << module;
      EXPECT_FALSE(torch::allclose(got, weight, 0, 1e-3)) << module;
    }
  }
}

TEST_F(ExportModel, AutoKeepsTheBaseWithTheLowerPerplexity) {
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  options_.grid.type = Q::kRtn;
  const ExportResult result = run();
  auto& linears = log_.linears;  // of both candidates
  const auto half = linears.begin() + 7 * settings_.layers;
  result.merge_base == MergeBase::kOriginal ? linears.erase(half, linears.end())
                                            : linears.erase(linears.begin(), half);
  expect_complete(result);
  std::vector<StageResult> quantized;
  std::vector<StageKind> kinds;
  for (const auto& stage : result.report.stages) {
    kinds.push_back(stage.kind);
    if (stage.kind == StageKind::kQuantized) quantized.push_back(stage);
  }
  using K = StageKind;
  EXPECT_EQ(kinds, (std::vector<K>{K::kBase16, K::kBaseNf4, K::kAdapter, K::kMerged, K::kMerged,
                                   K::kQuantized, K::kQuantized}));
  ASSERT_EQ(quantized.size(), 2U);
  ASSERT_NE(*quantized[0].perplexity, *quantized[1].perplexity);
  const bool original = *quantized[0].perplexity < *quantized[1].perplexity;
  EXPECT_EQ(result.merge_base, original ? MergeBase::kOriginal : MergeBase::kNf4);
  EXPECT_EQ(quantized[0].is_chosen, original);
  EXPECT_EQ(quantized[1].is_chosen, !original);
  // The adapter model is what all are compared with, and merging into NF4 is the same function.
  EXPECT_NEAR(*result.report.stages[2].kl_divergence, 0, 1e-9);
  EXPECT_NEAR(*result.report.stages[4].kl_divergence, 0, 1e-6);
  EXPECT_GT(*result.report.stages[3].kl_divergence, 1e-5);
}

TEST_F(ExportModel, AutoWithoutHeldOutDataTakesTheOriginalAndSaysSo) {
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  data_.evaluation.clear();
  options_.grid.type = Q::kRtn;
  EXPECT_EQ(run().merge_base, MergeBase::kOriginal);
  EXPECT_TRUE(RecordingLog::says(log_.warnings, "needs held-out data"));
}

TEST_F(ExportModel, WarnsOfAChangeThatRoundingSwallows) {
  write_random_adapter(folder_ / "adapter", settings_, 0.002);
  source_.adapter = (folder_ / "adapter").string();
  options_.grid.type = Q::kRtn;
  options_.merge_base = MergeBase::kOriginal;
  const ExportResult result = run();
  EXPECT_TRUE(RecordingLog::says(result.report.warnings, "near-no-op merge"));
}

TEST_F(ExportModel, WorkDirectoryOfTheUserKeepsWhatElseIsInIt) {
  fs::create_directory(folder_ / "mine");
  write_text(folder_ / "mine/thesis.txt", "years");
  options_.work_dir = (folder_ / "mine").string();
  options_.grid.type = Q::kRtn;
  run();
  EXPECT_EQ(read_text(folder_ / "mine/thesis.txt"), "years");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "mine"), {}), 1);
}

TEST_F(ExportModel, SkippedModulesOfScaledSitesReportTheirOwnError) {
  options_.grid.skip_modules = {"q_proj"};
  run();
  for (const auto& linear : log_.linears) {
    if (!linear.at("module").get<std::string>().ends_with("q_proj")) continue;
    EXPECT_EQ(linear.at("bits"), 16);
    EXPECT_GT(linear.at("sqnr_db"), 50) << linear;  // rounded to FP16, and nothing else
  }
}

}  // namespace
}  // namespace qlora::exporter
