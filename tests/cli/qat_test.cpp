// Runs that train on the grid they export, as processes: what is trained is what is measured, what
// is written, and what a resumed run goes on from.
#include <filesystem>

#include "tests/cli/qat_fixture.h"
#include "tests/support/errors.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

TEST_F(QatProgram, EverySchemeTrainsExportsAndMeasuresAlike) {
  expect_trained_equals_exported("awq");
  config_["qat"] = {
      {"scheme", "int4-gptq"}, {"group_size", 32}, {"scales", "learned"}, {"start_step", 3}};
  expect_trained_equals_exported("gptq-learned");
  config_["qat"] = {{"scheme", "int4-gptq"},
                    {"bits", 3},
                    {"group_size", 32},
                    {"scales", "clip"},
                    {"refresh_steps", 4}};
  expect_trained_equals_exported("gptq3-clip");
  config_["qat"] = {{"scheme", "fp8"}};
  expect_trained_equals_exported("fp8");
  config_["qat"] = {{"scheme", "int8"}};
  expect_trained_equals_exported("int8");
  config_["qat"] = {{"scheme", "int8"}, {"activations", "int8_static"}, {"observer", "percentile"}};
  expect_trained_equals_exported("int8-static");
  config_["qat"] = {{"scheme", "fp8"}, {"activations", "fp8_static"}, {"observer", "minmax"}};
  expect_trained_equals_exported("fp8-static");
}

TEST_F(QatProgram, TheOriginalBaseAndSectionExportSayTheGrid) {
  config_["quantization"] = {{"load_in_4bit", false}};
  config_["qat"] = {{"scheme", "export"}, {"merge_base", "original"}};
  config_["export"] = {{"output_dir", path("v2")},
                       {"quantization_type", "rtn"},
                       {"format", "gptq_v2"},
                       {"symmetric", false},
                       {"group_size", 32}};
  write_config();
  ASSERT_EQ(train().exit_code, 0);
  const double adapter = measured({"--adapter", path("out")}).at("perplexity");
  EXPECT_NEAR(measured({"--model-path", path("v2")}).at("perplexity").get<double>() / adapter, 1,
              1e-3);
  // The grid can be left out; then the adapter is on its base alone.
  const auto plain = measured({"--adapter", path("out"), "--set", "qat.scheme=none"});
  EXPECT_NE(plain.at("perplexity"), adapter);
}

TEST_F(QatProgram, AnExportOfTheRunWritesTheTrainedGridAndSaysWhereItDoesNot) {
  write_config();
  ASSERT_EQ(train().exit_code, 0);
  const ProgramResult same = qlora({"export", "--run", path("out"), "--json"});
  ASSERT_EQ(same.exit_code, 0) << same.err;
  const auto facts = nlohmann::json::parse(same.out);
  EXPECT_EQ(facts.at("output_dir"), path("out-qat-4bit"));
  EXPECT_NE(facts.at("grid").get<std::string>().find("trained on this grid"), std::string::npos);
  const ProgramResult other = qlora({"export", "--run", path("out"), "--bits", "8", "--format",
                                     "gptq", "--output-dir", path("other"), "--json"});
  ASSERT_EQ(other.exit_code, 0) << other.err;
  EXPECT_SAYS(other.err, "the run trained on int4-awq, 4 bits, asymmetric over the nf4 base");
  EXPECT_SAYS(other.err, "another grid, rounded anew");
  EXPECT_EQ(other.out.find("trained on this grid"), std::string::npos);
  expect_refused(qlora({"export", "--run", path("out"), "--set", "qat.scheme=none"}),
                 {"[export] --set qat.scheme=none changes qat.scheme", "leave it out"});
  // The run's grid in other words is the run's grid.
  for (const std::vector<std::string>& words : {std::vector<std::string>{"--bits", "4"},
                                                {"--symmetric", "false"},
                                                {"--group-size", "32"}}) {
    std::vector<std::string> arguments = {"export", "--run",        path("out"),
                                          "--json", "--output-dir", path("again-" + words[0])};
    arguments.insert(arguments.end(), words.begin(), words.end());
    const ProgramResult again = qlora(arguments);
    ASSERT_EQ(again.exit_code, 0) << again.err;
    EXPECT_SAYS(again.out, "trained on this grid");
    EXPECT_EQ(read_text(folder_ / ("again-" + words[0]) / "model.safetensors"),
              read_text(folder_ / "out-qat-4bit/model.safetensors"));
  }
  const ProgramResult elsewhere =
      qlora({"export", "--run", path("out"), "--set", "quantization.bnb_4bit_quant_type=fp4",
             "--output-dir", path("fp4"), "--json"});
  ASSERT_EQ(elsewhere.exit_code, 0) << elsewhere.err;
  EXPECT_SAYS(elsewhere.err, "rounded anew over another base");
  EXPECT_EQ(elsewhere.out.find("trained on this grid"), std::string::npos);
  // One checkpoint's adapter on the run's grid.
  const ProgramResult early = qlora({"export", "--run", path("out"), "--adapter",
                                     path("out/checkpoint-4"), "--output-dir", path("early")});
  EXPECT_EQ(early.exit_code, 0) << early.err;
  const ProgramResult alone = qlora(
      {"export", "--adapter", path("out/checkpoint-4"), "--output-dir", path("alone"), "--json"});
  ASSERT_EQ(alone.exit_code, 0) << alone.err;
  EXPECT_SAYS(alone.out, "trained on this grid");
  EXPECT_EQ(read_text(folder_ / "alone/model.safetensors"),
            read_text(folder_ / "early/model.safetensors"));
}

TEST_F(QatProgram, MergesIntoTheBaseThatTheRunTrainedOn) {
  write_config();
  ASSERT_EQ(train().exit_code, 0);
  const auto merged = [&](const std::string& name, std::vector<std::string> more) {
    std::vector<std::string> arguments = {"merge", "--run", path("out"), "--output-dir",
                                          path(name)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ProgramResult result = qlora(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.err.find("over the nf4 base; what is written is the merged weights before"),
              std::string::npos)
        << result.err;
    return read_text(folder_ / name / "model.safetensors");
  };
  const std::string by_default = merged("m-default", {});
  EXPECT_TRUE(by_default == merged("m-nf4", {"--merge-base", "nf4"}));
  EXPECT_FALSE(by_default == merged("m-original", {"--merge-base", "original"}));
}

TEST_F(QatProgram, ResumeIsBitExactWithLearnedScalesAndObservers) {
  const std::vector<nlohmann::ordered_json> sections = {
      {{"scheme", "int4-gptq"}, {"group_size", 32}, {"scales", "learned"}, {"start_step", 2}},
      {{"scheme", "int4-gptq"}, {"bits", 3}, {"group_size", 32}, {"scales", "anchored"}},
      {{"scheme", "int4-awq"}, {"group_size", 32}, {"scales", "clip"}, {"refresh_steps", 3}},
      {{"scheme", "int8"}, {"activations", "int8_static"}, {"observer", "mse"}}};
  for (const auto& section : sections) {
    config_["qat"] = section;
    write_config();
    ASSERT_EQ(train({"--output-dir", path("whole"), "--overwrite"}).exit_code, 0);
    ASSERT_EQ(train({"--overwrite"}).exit_code, 0);
    fs::remove_all(folder_ / "out/checkpoint-12");
    fs::remove(folder_ / "out/adapter_model.safetensors");
    const ProgramResult resumed = train({"--resume", "auto"});
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
    EXPECT_EQ(losses(path("out")), losses(path("whole"))) << section;
    for (const char* file : {"adapter_model.safetensors", "qat_grids.safetensors"}) {
      EXPECT_EQ(read_text(folder_ / "out" / file), read_text(folder_ / "whole" / file))
          << section << file;
    }
  }
}

TEST_F(QatProgram, AResumedRunIsWatchedByTheSameLosses) {
  config_["watchdog"] = {{"loss_spike_factor", 100}};
  config_["qat"]["start_step"] = 2;  // what was before it is forgotten, once
  write_config();
  const auto watched = [this] {
    return nlohmann::json::parse(read_text(folder_ / "out/checkpoint-12/trainer_state.json"))
        .at("watchdog");
  };
  ASSERT_EQ(train().exit_code, 0);
  const auto whole = watched();
  EXPECT_EQ(whole.at("losses").size(), 11U);
  fs::remove_all(folder_ / "out/checkpoint-12");
  ASSERT_EQ(train({"--resume", "auto"}).exit_code, 0);
  EXPECT_EQ(watched(), whole);
}

TEST_F(QatProgram, AGptqSolutionGivesTheGrid) {
  const ProgramResult solved =
      qlora({"export", "--model-path", path("model"), "--dataset-name", path("train.jsonl"),
             "--quantization-type", "gptq", "--group-size", "32", "--symmetric", "false",
             "--compute-dtype", "fp32", "--output-dir", path("solved")});
  ASSERT_EQ(solved.exit_code, 0) << solved.err;
  config_["qat"] = {{"scheme", "int4-gptq"},
                    {"group_size", 32},
                    {"symmetric", false},
                    {"grid_from", path("solved")}};
  expect_trained_equals_exported("from-gptq");
  config_["qat"]["bits"] = 3;
  config_.erase("export");
  write_config();
  expect_refused(train({"--output-dir", path("never")}), {"grid_from", "has 4 bits", "needs 3"});
  config_["qat"].erase("bits");
  config_["qat"].erase("symmetric");  // of the layout: symmetric
  write_config();
  expect_refused(train({"--output-dir", path("never")}),
                 {"grid_from", "zero points from", "symmetric, where all are 8"});
  // A run that is over holds the numbers of its grid.
  fs::remove_all(folder_ / "solved");
  measured({"--adapter", path("run-from-gptq")});
  const ProgramResult again =
      qlora({"export", "--run", path("run-from-gptq"), "--output-dir", path("again")});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(read_text(folder_ / "again/model.safetensors"),
            read_text(folder_ / "from-gptq/model.safetensors"));
}

TEST_F(QatProgram, AwqScalesAreFoldedIntoACopyOfTheBase) {
  config_["qat"]["awq_scales"] = true;
  expect_trained_equals_exported("awq-scaled");
  const auto resolved =
      nlohmann::json::parse(read_text(folder_ / "run-awq-scaled/config.resolved.json"));
  const std::string base = resolved.at("model_name_or_path");
  EXPECT_EQ(base, path("run-awq-scaled-awq-base"));
  EXPECT_EQ(resolved.at("qat").at("awq_scales"), false);  // the copy is not scaled again
  // The copy computes what the model does, but for its rounding to 16 bits; its weights differ.
  const double model = measured({"--model-path", path("model")}).at("perplexity");
  EXPECT_NEAR(measured({"--model-path", base}).at("perplexity").get<double>() / model, 1, 2e-3);
  EXPECT_NE(read_text(fs::path(base) / "model.safetensors"),
            read_text(folder_ / "model/model.safetensors"));
  // Resumed, the run takes the copy that is there.
  fs::remove_all(folder_ / "run-awq-scaled/checkpoint-12");
  const auto whole = losses(path("run-awq-scaled"));
  config_.erase("export");
  write_config();
  const ProgramResult resumed = train({"--output-dir", path("run-awq-scaled"), "--resume", "auto"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(losses(path("run-awq-scaled")), whole);
  // What is left of a run is no copy for another one.
  fs::remove_all(folder_ / "run-awq-scaled");
  const auto resumes_with = [&](const std::string& setting) {
    return train({"--output-dir", path("run-awq-scaled"), "--resume", "auto", "--set", setting});
  };
  expect_refused(resumes_with("qat.group_size=64"), {"run-awq-scaled-awq-base", "made of other"});
  expect_refused(resumes_with("export.calibration_samples=3"), {"made of other", "move it away"});
  EXPECT_EQ(resumes_with("learning_rate=1e-4").exit_code, 0);
}

TEST_F(QatProgram, ARunStartsFromTheCodesOfAnExport) {
  config_["qat"] = {{"scheme", "none"}};
  write_config();
  ASSERT_EQ(train({"--output-dir", path("plain")}).exit_code, 0);
  const ProgramResult solved =
      qlora({"export", "--run", path("plain"), "--quantization-type", "gptq", "--group-size", "32",
             "--symmetric", "false", "--merge-base", "original", "--compute-dtype", "fp32",
             "--output-dir", path("solved")});
  ASSERT_EQ(solved.exit_code, 0) << solved.err;
  config_["quantization"] = {{"load_in_4bit", false}};
  config_["lora"]["init_adapter"] = path("plain");
  config_["eval_on_start"] = true;
  config_["qat"] = {{"scheme", "int4-gptq"}, {"group_size", 32},
                    {"symmetric", false},    {"merge_base", "original"},
                    {"scales", "learned"},   {"start_from", path("solved")}};
  expect_trained_equals_exported("from-codes");
  const auto evaluations = log_records(path("run-from-codes"), "evaluation");
  const double at_start = std::exp(evaluations.front().at("loss").get<double>());
  const double solution = measured({"--model-path", path("solved")}).at("perplexity");
  EXPECT_NEAR(at_start / solution, 1, 1e-3);  // the run begins as the export
  const auto resolved =
      nlohmann::json::parse(read_text(folder_ / "run-from-codes/config.resolved.json"));
  EXPECT_EQ(resolved.at("model_name_or_path"), path("run-from-codes-start-base"));
  EXPECT_EQ(resolved.at("qat").at("start_from"), "");  // the copy is not moved again
  EXPECT_EQ(resolved.at("qat").at("grid_from"), path("solved"));
  // Resumed, the run takes the copy that is there.
  fs::remove_all(folder_ / "run-from-codes/checkpoint-12");
  const auto whole = losses(path("run-from-codes"));
  config_.erase("export");
  write_config();
  const ProgramResult resumed = train({"--output-dir", path("run-from-codes"), "--resume", "auto"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(losses(path("run-from-codes")), whole);
}

TEST_F(QatProgram, ScaledWeightsAreSolvedAndStartedFromInOneRun) {
  config_["quantization"] = {{"load_in_4bit", false}};
  config_["qat"] = {{"scheme", "int4-awq"},     {"group_size", 32},   {"scales", "learned"},
                    {"merge_base", "original"}, {"awq_scales", true}, {"start_from", "gptq"}};
  expect_trained_equals_exported("solved-here");
  const auto resolved =
      nlohmann::json::parse(read_text(folder_ / "run-solved-here/config.resolved.json"));
  EXPECT_EQ(resolved.at("model_name_or_path"), path("run-solved-here-start-base"));
  EXPECT_EQ(resolved.at("qat").at("grid_from"), path("run-solved-here-start-codes"));
  EXPECT_EQ(resolved.at("qat").at("start_from"), "");
  EXPECT_EQ(resolved.at("qat").at("awq_scales"), false);
  fs::remove_all(folder_ / "run-solved-here/checkpoint-12");
  const auto whole = losses(path("run-solved-here"));
  config_.erase("export");
  write_config();
  const ProgramResult resumed =
      train({"--output-dir", path("run-solved-here"), "--resume", "auto"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(losses(path("run-solved-here")), whole);
  fs::remove_all(folder_ / "run-solved-here-start-codes");  // needed to begin, not to go on
  fs::remove_all(folder_ / "run-solved-here/checkpoint-12");
  const ProgramResult without =
      train({"--output-dir", path("run-solved-here"), "--resume", "auto"});
  ASSERT_EQ(without.exit_code, 0) << without.err;
  EXPECT_EQ(losses(path("run-solved-here")), whole);
}

TEST_F(QatProgram, ThePlanCountsLearnedScales) {
  config_["qat"]["scales"] = "learned";
  write_config();
  const ProgramResult plan = train({"--dry-run", "--json"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  ASSERT_EQ(train().exit_code, 0);
  EXPECT_EQ(nlohmann::json::parse(plan.out).at("trainable_parameters"),
            log_records(path("out"), "start").front().at("trainable_parameters"));
}

TEST_F(QatProgram, ASectionWithoutASchemeIsTold) {
  config_["qat"] = {{"bits", 3}};
  write_config();
  const ProgramResult plan = train({"--dry-run"});
  ASSERT_EQ(plan.exit_code, 0) << plan.err;
  EXPECT_SAYS(plan.err, "section qat has settings, but its scheme is none");
}

TEST_F(QatProgram, GenerateAnswersWithTheGrid) {
  write_config();
  ASSERT_EQ(train().exit_code, 0);
  const ProgramResult answer =
      qlora({"generate", "--adapter", path("out"), "--prompt", "abc", "--max-new-tokens", "4",
             "--compute-dtype", "fp32", "--json"});
  ASSERT_EQ(answer.exit_code, 0) << answer.err;
  EXPECT_NE(answer.err.find("rounded to what the adapter was trained on"), std::string::npos);
  EXPECT_FALSE(nlohmann::json::parse(answer.out).at("tokens").empty());
}

TEST_F(QatProgram, KeysAndValuesOfFewBitsAreTrained) {
  config_["qat"]["kv_cache"] = "int4";
  write_config();
  ASSERT_EQ(train().exit_code, 0);
  const double rounded = measured({"--adapter", path("out")}).at("perplexity");
  const auto evaluations = log_records(path("out"), "evaluation");
  EXPECT_NEAR(rounded / std::exp(evaluations.back().at("loss").get<double>()), 1, 1e-5);
  const double plain =
      measured({"--adapter", path("out"), "--set", "qat.kv_cache=none"}).at("perplexity");
  EXPECT_NE(rounded, plain);
  // The export measures its files with the cache that they were trained for.
  const ProgramResult exported = qlora(
      {"export", "--run", path("out"), "--output-dir", path("kv"), "--compute-dtype", "fp32"});
  ASSERT_EQ(exported.exit_code, 0) << exported.err;
  int compared = 0;
  const auto report = nlohmann::json::parse(read_text(folder_ / "kv/report.json"));
  for (const auto& stage : report.at("stages")) {
    if (stage["kind"] != "adapter" && stage["kind"] != "quantized") continue;
    const double perplexity = stage["perplexity"];
    EXPECT_LT(std::abs(perplexity - rounded), 0.1 * std::abs(perplexity - plain)) << stage;
    ++compared;
  }
  EXPECT_EQ(compared, 2);
}

}  // namespace
}  // namespace qlora::testing
