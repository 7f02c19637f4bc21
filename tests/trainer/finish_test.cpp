// What a run says of itself at its end.
#include "trainer/finish.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::trainer {
namespace {

TEST(SummaryText, SaysWhatTheEvaluationsMeasured) {
  TrainResult result{.run_dir = "out", .steps = 4, .total_steps = 4};
  EXPECT_EQ(summary_text(result).find("perplexity"), std::string::npos);
  result.first_evaluation = result.last_evaluation = Evaluation{.step = 0, .loss = std::log(8.0)};
  EXPECT_NE(summary_text(result).find("perplexity 8.000 after step 0"), std::string::npos);
  result.last_evaluation = Evaluation{.step = 4, .loss = std::log(2.0)};
  EXPECT_NE(summary_text(result).find("perplexity 8.000 -> 2.000"), std::string::npos);
}

TEST(SummaryText, NamesTheDevicesMemoryWhereTheRunHadOne) {
  TrainResult result{.run_dir = "out", .steps = 4, .total_steps = 4};
  EXPECT_EQ(summary_text(result).find("on the device"), std::string::npos);
  EXPECT_FALSE(result_json(result).contains("peak_device_bytes"));
  result.peak_device_bytes = 4'200'000'000;
  EXPECT_NE(summary_text(result).find(", on the device 4.2 GB"), std::string::npos);
  EXPECT_EQ(result_json(result).at("peak_device_bytes"), 4'200'000'000);
}

TEST(ResolvedConfig, AsksForNothingThatTheRunDoesToItsDirectory) {
  const testing::TemporaryFolder folder;
  RunFacts facts;
  write_resolved_config(folder.path(), facts);
  EXPECT_TRUE(folder.entries().empty());  // there is none
  facts.config = {{"resume", "auto"}, {"overwrite", true}, {"seed", 7}};
  write_resolved_config(folder.path(), facts);
  const auto written = Json::parse(testing::read_text(folder / "config.resolved.json"));
  EXPECT_EQ(written, Json({{"resume", ""}, {"overwrite", false}, {"seed", 7}}));
  facts.config = {{"seed", 7}};
  write_resolved_config(folder.path(), facts);
  EXPECT_EQ(Json::parse(testing::read_text(folder / "config.resolved.json")), facts.config);
  facts.config = {{"export", {{"output_dir", "out"}, {"overwrite", true}}}};
  write_resolved_config(folder.path(), facts);
  EXPECT_EQ(Json::parse(testing::read_text(folder / "config.resolved.json")).at("export"),
            Json({{"output_dir", "out"}, {"overwrite", false}}));
}

TEST(CheckTrained, ARunWithoutAnAppliedStepHasNoResult) {
  const TrainResult result{.run_dir = "out", .steps = 4, .total_steps = 4, .skipped_steps = 4};
  EXPECT_ERROR(ValueError, check_trained(0, result), "not one of 4 steps was applied");
  EXPECT_NO_THROW(check_trained(1, result));
}

}  // namespace
}  // namespace qlora::trainer
