// Exports that are refused, or that end without a result, and what they leave behind.
#include <gtest/gtest.h>

#include <filesystem>

#include "core/error.h"
#include "io/base_record.h"
#include "tests/exporter/export_fixture.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using namespace qlora::testing;  // the helpers of the tests
using Q = QuantizationType;

TEST_F(ExportModel, GateRefusesAndLeavesNothing) {
  options_.grid.type = Q::kRtn;
  options_.grid.bits = 2;
  options_.evaluation.max_perplexity_ratio = 1.0;
  const ExportResult result = run();
  EXPECT_TRUE(result.gate_failed);
  EXPECT_TRUE(result.output_dir.empty());
  EXPECT_FALSE(result.report.gate->advice.empty());
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_FALSE(fs::exists(work()));
  options_.keep = true;
  EXPECT_TRUE(run().gate_failed);
  EXPECT_TRUE(fs::exists(out() / "model.safetensors"));
}

TEST_F(ExportModel, GateWithoutHeldOutDataIsRefused) {
  options_.grid.type = Q::kRtn;
  options_.evaluation.max_perplexity_ratio = 1.1;
  data_.evaluation.clear();
  EXPECT_ERROR(ConfigError, run(), "max_perplexity_ratio");
}

TEST_F(ExportModel, RefusesBeforeAnythingIsWritten) {
  data_.calibration.reset();
  EXPECT_ERROR(ConfigError, run(), "needs calibration samples");
  data_ = tiny_export_data();
  data_.evaluation[0].targets.assign(48, kIgnoreTarget);
  data_.evaluation.resize(1);
  EXPECT_ERROR(ValueError, run(), "none of the 1 held-out");
  data_ = tiny_export_data();
  options_.output_dir.clear();
  EXPECT_ERROR(ConfigError, run(), "output_dir is not set");
  options_.output_dir = (folder_ / "model").string();
  EXPECT_ERROR(ConfigError, run(), "exists");
  EXPECT_FALSE(fs::exists(folder_ / "out.work"));
}

TEST_F(ExportModel, RefusesAnAdapterOfAnotherBase) {
  TinyCheckpoint wide = settings_;
  wide.mlp_width = 192;
  write_random_adapter(folder_ / "wide", wide);
  source_.adapter = (folder_ / "wide").string();
  EXPECT_ERROR(ShapeError, run(), "the model has");
  TinyCheckpoint deep = settings_;
  deep.layers = 4;
  write_random_adapter(folder_ / "deep", deep);
  source_.adapter = (folder_ / "deep").string();
  EXPECT_ERROR(FormatError, run(), "model.layers.3");
  EXPECT_FALSE(fs::exists(work()));
}

TEST_F(ExportModel, RefusesAnAdapterOfOtherWeightsUnlessAsked) {
  options_.grid.type = Q::kRtn;
  options_.evaluation.enabled = false;
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  write_text(folder_ / "adapter/base_model.json",
             R"({"path": "elsewhere", "sha256": "0123456789abcdef"})");
  EXPECT_ERROR(FormatError, run(), "trained on elsewhere with other weights");
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_FALSE(fs::exists(work()));
  options_.allow_other_base = true;
  EXPECT_FALSE(run().output_dir.empty());
  fs::remove_all(out());
  options_.allow_other_base = false;
  io::write_base_record(source_.adapter, io::base_record_of(source_.model_path));
  EXPECT_FALSE(run().output_dir.empty());
}

TEST_F(ExportModel, DamagedWeightsLeaveNothingBehind) {
  plant_nan(folder_ / "model/model.safetensors", "model.layers.1.mlp.up_proj.weight");
  options_.grid.type = Q::kRtn;
  for (const bool evaluate : {true, false}) {
    options_.evaluation.enabled = evaluate;
    EXPECT_ERROR(ValueError, run(), "damaged");
    EXPECT_FALSE(fs::exists(out()));
    EXPECT_FALSE(fs::exists(work()));
  }
}

TEST_F(ExportModel, WorkDirectoryThatCannotBeMade) {
  write_text(folder_ / "file", "");
  options_.work_dir = (folder_ / "file/work").string();
  options_.grid.type = Q::kRtn;
  EXPECT_ERROR(IoError, run(), "cannot be made");
}

TEST_F(ExportModel, NumbersThatHalfCannotHold) {
  TinyCheckpoint large = settings_;
  large.weight_scale = 1e5;
  write_tiny_checkpoint(folder_ / "model", large);
  options_.grid.type = Q::kRtn;
  options_.grid.skip_modules = {"down_proj"};
  options_.evaluation.enabled = false;
  EXPECT_ERROR(ValueError, run(), "bfloat16");
  EXPECT_FALSE(fs::exists(work()));
}

}  // namespace
}  // namespace qlora::exporter
