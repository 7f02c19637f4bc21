#include "exporter/export_options.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace qlora::exporter {
namespace {

ExportOptions read(const std::string& text) {
  ExportOptions options;
  read_fields(Json::parse(text), options, "test");
  return options;
}

TEST(ExportOptions, ReadsTheNamesThatUsersKnow) {
  const ExportOptions o = read(R"({"quant_method": "gptq", "format": "compressed_tensors",
      "w_bit": 8, "q_group_size": 64, "sym": false, "num_calibration_samples": 3,
      "max_calib_seq_len": 77, "modules_to_not_convert": ["lm_head"], "max_perplexity_ratio": 1.15,
      "merge_base": "nf4", "loader": "llama.cpp", "bits_pattern": {"down_proj": 8}})");
  EXPECT_EQ(o.grid.type, QuantizationType::kGptq);
  EXPECT_EQ(o.grid.format, ExportFormat::kCompressedTensors);
  EXPECT_EQ(o.grid.bits, 8);
  EXPECT_EQ(o.grid.group_size, GroupSize::k64);
  EXPECT_EQ(o.grid.symmetric, false);
  EXPECT_EQ(o.calibration.samples, 3);
  EXPECT_EQ(o.calibration.max_seq_length, 77);
  EXPECT_EQ(o.grid.skip_modules, std::vector<std::string>{"lm_head"});
  EXPECT_EQ(o.evaluation.max_perplexity_ratio, 1.15);
  EXPECT_EQ(o.merge_base, MergeBase::kNf4);
  EXPECT_EQ(o.grid.loader, Loader::kLlamaCpp);
  EXPECT_EQ(o.grid.bits_pattern.at("down_proj"), 8);
}

TEST(ExportOptions, TheGroupSizeIsANumberOrAWord) {
  EXPECT_EQ(read(R"({"group_size": 128})").grid.group_size, GroupSize::k128);
  EXPECT_EQ(read(R"({"group_size": "128"})").grid.group_size, GroupSize::k128);
  EXPECT_EQ(read(R"({"group_size": -1})").grid.group_size, GroupSize::kPerRow);
  EXPECT_EQ(read(R"({"group_size": "auto"})").grid.group_size, GroupSize::kAuto);
  EXPECT_EQ(static_cast<int64_t>(read(R"({"group_size": 32})").grid.group_size), 32);
  for (const char* text : {R"({"group_size": 48})", R"({"group_size": 128.5})",
                           R"({"group_size": "all"})", R"({"group_size": null})"}) {
    EXPECT_THROW(read(text), ConfigError) << text;
  }
  ExportOptions options;
  override_field(options, "group_size=64");
  EXPECT_EQ(options.grid.group_size, GroupSize::k64);
}

TEST(ExportOptions, DefaultsAreTheIssuesAndRoundTrip) {
  const ExportOptions defaults;
  EXPECT_EQ(defaults.grid.type, QuantizationType::kAwq);
  EXPECT_EQ(defaults.calibration.samples, 512);
  EXPECT_EQ(defaults.calibration.max_seq_length, 1500);
  EXPECT_EQ(defaults.calibration.dataset_split, "train");
  EXPECT_EQ(defaults.grid.smoothquant_alpha, 0.5);
  EXPECT_EQ(defaults.max_shard_size, "5GB");
  EXPECT_FALSE(defaults.evaluation.max_perplexity_ratio);
  ExportOptions changed;
  changed.grid.type = QuantizationType::kFp8;
  changed.grid.group_size = GroupSize::kPerRow;
  changed.grid.symmetric = true;
  changed.evaluation.max_perplexity_ratio = 1.5;
  ExportOptions again;
  read_fields(write_fields(changed), again, "test");
  EXPECT_EQ(write_fields(again), write_fields(changed));
  EXPECT_EQ(write_fields(changed)["group_size"], "-1");
}

TEST(ExportOptions, RefusesWhatIsOutOfRange) {
  for (const char* text :
       {R"({"bits": 1})", R"({"bits": 9})", R"({"calibration_samples": 0})",
        R"({"max_seq_length": 1})", R"({"smoothquant_alpha": 1.5})",
        R"({"max_perplexity_ratio": 0.9})", R"({"quantization_type": "awk"})", R"({"bit": 4})"}) {
    EXPECT_THROW(read(text), ConfigError) << text;
  }
}

}  // namespace
}  // namespace qlora::exporter
