// A base whose weights lie in the cells of an export's codes: rounding gives those codes again.
#include "exporter/start_codes.h"

#include "exporter/base_copy.h"
#include "exporter/weight_grids.h"
#include "lora/merge.h"
#include "quant/affine_math.h"
#include "tests/exporter/export_fixture.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

using torch::Tensor;

/// A GPTQ export of the tiny model with an adapter, and the run that may start from it.
class StartFromCodes : public ExportModel {
 protected:
  void SetUp() override {
    ExportModel::SetUp();
    testing::write_random_adapter(folder_ / "adapter", settings_);
    source_.adapter = (folder_ / "adapter").string();
    options_.grid.type = QuantizationType::kGptq;
    options_.grid.format = ExportFormat::kGptq;
    options_.grid.symmetric = false;
    options_.merge_base = MergeBase::kOriginal;
  }
  QatOptions qat() const {
    return {.scheme = QatScheme::kInt4Gptq,
            .group_size = GroupSize::k32,
            .symmetric = false,
            .merge_base = MergeBase::kOriginal,
            .scales = QatScales::kLearned};
  }
  ExportOptions of_run(const QatOptions& qat) const {
    ExportOptions options;
    options.grid = qat_grid(qat, {});
    return options;
  }
  void move(const ExportSource& source, const QatOptions& qat) {
    move_base(source, out().string(), of_run(qat), folder_ / "start", IfMade::kReplace, log_);
  }
};

/// Elements of a weight whose nearest codes are not these.
int64_t differing(const Tensor& weight, const quant::AffineTensor& codes) {
  const Tensor rounded = quant::dequantize_affine(codes);
  const int64_t group = codes.cols() / codes.groups();
  int64_t count = 0;
  for (int64_t n = 0; n < codes.rows(); ++n) {
    for (int64_t k = 0; k < codes.cols(); ++k) {
      const int64_t at = n * codes.groups() + k / group;
      const quant::AffineGrid grid{codes.scales.const_data_ptr<float>()[at],
                                   codes.zeros.const_data_ptr<uint8_t>()[at]};
      const float w = weight.const_data_ptr<float>()[n * codes.cols() + k];
      count += quant::affine_code(w, grid, codes.options.bits) !=
               codes.codes.const_data_ptr<uint8_t>()[n * codes.cols() + k];
    }
  }
  return count;
}

TEST_F(StartFromCodes, TheMergedCopyRoundsToTheCodes) {
  options_.grid.skip_modules = {"layers.1.mlp.up_proj"};
  run();
  QatOptions qat = this->qat();
  qat.skip_modules = options_.grid.skip_modules;
  move(source_, qat);
  const model::BlockLoader copy = loader(folder_ / "start"), model = loader(source_.model_path);
  const model::WeightSource written(out());
  const lora::PeftAdapter adapter = lora::read_peft_adapter(source_.adapter);
  const Preflight checked = preflight(model.config(), of_run(qat).grid);
  int64_t moved = 0, all = 0;
  for (const ModuleGrid& module : checked.modules) {
    const Tensor base = copy.source().tensor_f32(module.name + ".weight");
    const Tensor before = model.source().tensor_f32(module.name + ".weight");
    if (!module.is_quantized()) {
      EXPECT_TRUE(base.equal(before)) << module.name;
      continue;
    }
    const auto options = affine_options(checked.grid, module.bits, module.group_size);
    const auto codes = codes_of_export(written, module, options, "start_from");
    const auto own = adapter_of(adapter, module.name);
    ASSERT_TRUE(own.has_value());
    EXPECT_EQ(differing(lora::merged_weight(base, *own), codes), 0) << module.name;
    moved += differing(lora::merged_weight(before, *own), codes);
    all += base.numel();
  }
  EXPECT_GT(moved, all / 100);  // GPTQ's codes are not the nearest ones
}

TEST_F(StartFromCodes, WithoutAnAdapterTheBaseItselfDoes) {
  source_.adapter.clear();
  run();
  move(source_, qat());
  EXPECT_NEAR(perplexity(folder_ / "start") / perplexity(source_.model_path), 1, 0.2);
  const model::BlockLoader copy = loader(folder_ / "start");
  const model::WeightSource written(out());
  const Preflight checked = preflight(copy.config(), of_run(qat()).grid);
  const ModuleGrid& module = checked.modules.front();
  const auto codes = codes_of_export(
      written, module, affine_options(checked.grid, module.bits, module.group_size), "start_from");
  EXPECT_EQ(differing(copy.source().tensor_f32(module.name + ".weight"), codes), 0);
}

TEST_F(StartFromCodes, OtherGridsAndOtherModelsAreRefused) {
  run();
  QatOptions other = qat();
  other.bits = 3;
  EXPECT_ERROR(ConfigError, move(source_, other), "[qat] start_from: ");
  EXPECT_ERROR(ConfigError, move(source_, other), "has 4 bits");
  testing::write_tiny_checkpoint(folder_ / "other", {.layers = 3, .weight_scale = 2});
  ExportSource elsewhere = source_;
  elsewhere.model_path = (folder_ / "other").string();
  EXPECT_ERROR(ConfigError, move(elsewhere, qat()), "steps from this run's weights in the mean");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "start"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "start.work"));
}

TEST_F(StartFromCodes, OptionsThatContradictItAreRefused) {
  QatOptions options = qat();
  options.start_from = "solved";
  EXPECT_TRUE(options.holds_grids());
  qat_grid(options, {});
  options.grid_from = "solved";
  EXPECT_ERROR(ConfigError, qat_grid(options, {}), "bring their grid; keep one");
  options.grid_from.clear();
  options.merge_base = MergeBase::kNf4;
  EXPECT_ERROR(ConfigError, qat_grid(options, {}), "set merge_base original");
  options.merge_base = MergeBase::kOriginal;
  options.start_step = 4;
  EXPECT_ERROR(ConfigError, qat_grid(options, {}), "leave start_step out");
  options.start_step = 0;
  options.awq_scales = true;
  EXPECT_ERROR(ConfigError, qat_grid(options, {}), "or start_from gptq");
  options.start_from = kStartFromGptq;
  qat_grid(options, {});
  options = {.scheme = QatScheme::kInt8, .merge_base = MergeBase::kOriginal};
  options.start_from = kStartFromGptq;
  EXPECT_ERROR(ConfigError, qat_grid(options, {}), "has no codes that a solver finds");
}

}  // namespace
}  // namespace qlora::exporter
