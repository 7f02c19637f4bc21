#pragma once

#include <cmath>
#include <filesystem>

#include "tests/cli/fixture.h"

namespace qlora::testing {

/// Runs that train on the grid they export.
class QatProgram : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    config_["quantization"] = {{"load_in_4bit", true}};
    config_["max_steps"] = 12;
    config_["eval_steps"] = 12;
    config_["save_steps"] = 4;
    config_["qat"] = {{"scheme", "int4-awq"}, {"group_size", 32}};
  }
  nlohmann::json measured(std::vector<std::string> more) const {
    more.insert(more.begin(), {"perplexity", "--dataset-name", path("eval.jsonl"), "--template",
                               "dolly", "--compute-dtype", "fp32", "--json"});
    const ProgramResult result = qlora(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return nlohmann::json::parse(result.out);
  }
  /// Refused before anything is loaded or written.
  void expect_train_refused(const std::vector<std::string>& words) {
    write_config();
    expect_refused(train(), words);
    EXPECT_FALSE(std::filesystem::exists(path("out"))) << "something was written";
  }
  /// Trains, exports, and holds the three perplexities against each other.
  void expect_trained_equals_exported(const std::string& name) {
    config_["export"] = {{"output_dir", path(name)}};
    write_config();
    const ProgramResult trained = train({"--output-dir", path("run-" + name)});
    ASSERT_EQ(trained.exit_code, 0) << trained.err;
    const auto steps = losses(path("run-" + name));
    EXPECT_LT(steps.back(), steps.front()) << name;
    const auto evaluations = log_records(path("run-" + name), "evaluation");
    ASSERT_FALSE(evaluations.empty());
    const double in_training = std::exp(evaluations.back().at("loss").get<double>());
    const double adapter = measured({"--adapter", path("run-" + name)}).at("perplexity");
    const double written = measured({"--model-path", path(name)}).at("perplexity");
    EXPECT_NEAR(adapter / in_training, 1, 1e-5) << name;
    EXPECT_NEAR(written / in_training, 1, 1e-3) << name;
    const auto report = nlohmann::json::parse(read_text(folder_ / name / "report.json"));
    EXPECT_NE(report.at("grid").get<std::string>().find("trained on this grid"), std::string::npos);
    EXPECT_EQ(report.at("calibration"), "");
  }
};

}  // namespace qlora::testing
