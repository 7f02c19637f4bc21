// `qlora export`, `qlora merge` and a run that exports at its end, as processes.
#include <signal.h>

#include <filesystem>
#include <set>

#include "io/safetensors.h"
#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

class ExportProgram : public ProgramTest {
 protected:
  /// The run whose adapter is exported, in out/.
  void train_run() {
    config_["quantization"] = {{"load_in_4bit", true}};
    write_config();
    const ProgramResult result = train();
    ASSERT_EQ(result.exit_code, 0) << result.err;
  }
  ProgramResult export_model(std::vector<std::string> more, const ProgramInput& input = {}) const {
    more.insert(more.begin(), {"export", "--threads", "1", "--compute-dtype", "fp32",
                               "--output-dir", path("result")});
    return qlora(more, input);
  }
  /// The base alone, with a file of rows.
  std::vector<std::string> of_base(std::vector<std::string> more) const {
    more.insert(more.begin(), {"--model-path", path("model"), "--dataset-name", path("train.jsonl"),
                               "--group-size", "32"});
    return more;
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path())) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }
  /// Refused, and nothing has changed in the folder.
  void expect_refused_cleanly(const std::vector<std::string>& arguments,
                              const std::vector<std::string>& words) const {
    const auto before = files();
    expect_refused(export_model(arguments), words);
    EXPECT_EQ(files(), before);
  }
};

TEST_F(ExportProgram, OfARunIsMeasuredAndServesAsAModel) {
  train_run();
  const ProgramResult result = export_model({"--run", path("out"), "--group-size", "32", "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto facts = nlohmann::json::parse(result.out);  // one object, nothing else
  EXPECT_EQ(facts.at("published"), true);
  EXPECT_EQ(facts.at("model_path"), path("result"));
  ASSERT_EQ(facts.at("stages").size(), 7U);
  for (const auto& stage : facts.at("stages")) {
    EXPECT_GT(stage.at("perplexity"), 1.0) << stage;
    EXPECT_GT(stage.at("bytes"), 0) << stage;
  }
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "README.md",
                           "report.json", "report.html"}) {
    EXPECT_TRUE(fs::exists(folder_ / "result" / name)) << name;
  }
  EXPECT_FALSE(fs::exists(path("result.work")));
  const ProgramResult measured = qlora({"perplexity", "--model-path", path("result"),
                                        "--dataset-name", path("eval.jsonl"), "--json"});
  ASSERT_EQ(measured.exit_code, 0) << measured.err;
  EXPECT_GT(nlohmann::json::parse(measured.out).at("perplexity"), 1.0);
  const ProgramResult sizes = qlora({"compare", path("model"), path("result"), "--json"});
  ASSERT_EQ(sizes.exit_code, 0) << sizes.err;
  EXPECT_GT(nlohmann::json::parse(sizes.out).at("compression_ratio"), 1.0);
}

TEST_F(ExportProgram, ARunWithTheSectionExportsAtItsEnd) {
  config_["export"] = {{"quantization_type", "gptq"}, {"group_size", 32}};
  write_config();
  const ProgramResult result = train();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(fs::exists(folder_ / "out-gptq-4bit/model.safetensors"));
  // What the section says of quantizing is no part of a merge.
  const ProgramResult merged =
      qlora({"merge", "--run", path("out"), "--output-dir", path("merged")});
  ASSERT_EQ(merged.exit_code, 0) << merged.err;
  EXPECT_TRUE(fs::exists(folder_ / "merged/model.safetensors"));
}

TEST_F(ExportProgram, AMergeNeedsNoData) {
  train_run();
  fs::remove(path("train.jsonl"));
  fs::remove(path("eval.jsonl"));
  const ProgramResult merged =
      qlora({"merge", "--run", path("out"), "--output-dir", path("merged")});
  ASSERT_EQ(merged.exit_code, 0) << merged.err;
  EXPECT_TRUE(fs::exists(folder_ / "merged/model.safetensors"));
  EXPECT_NE(read_text(folder_ / "merged/README.md").find("fine-tuned on train.jsonl"),
            std::string::npos);
}

TEST_F(ExportProgram, AModelWithoutTokenizerIsRefusedAtOnce) {
  fs::remove(folder_ / "model/tokenizer.json");
  expect_refused_cleanly({"--model-path", path("model"), "--quantization-type", "rtn"},
                         {"holds no tokenizer", "expected tokenizer.json"});
}

TEST_F(ExportProgram, JsonOfARunThatExportsIsOneObject) {
  config_["export"] = {{"quantization_type", "rtn"}, {"group_size", 32}};
  write_config();
  const ProgramResult result = train({"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto facts = nlohmann::json::parse(result.out, nullptr, false);
  ASSERT_FALSE(facts.is_discarded()) << result.out;
  EXPECT_EQ(facts.at("steps"), 6);
  EXPECT_EQ(facts.at("export").at("published"), true);
}

TEST_F(ExportProgram, AnImpossibleExportIsRefusedBeforeTheTraining) {
  config_["export"] = {{"quantization_type", "awq"}, {"bits", 3}, {"format", "awq"}};
  write_config();
  expect_refused(train(), {"legal for awq"});
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(ExportProgram, TheGateExitsWithThreeAndPublishesNothing) {
  train_run();  // a base of random weights may win by rounding, one that has learnt does not
  const std::vector<std::string> arguments = {
      "--run",  path("out"), "--group-size", "32",       "--quantization-type",    "rtn",
      "--bits", "2",         "--merge-base", "original", "--max-perplexity-ratio", "1.0"};
  const auto before = files();
  const ProgramResult refused = export_model(arguments);
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  for (const char* words :
       {"nothing was published", "the cheapest first", "--symmetric false", "--bits 8"}) {
    EXPECT_NE(refused.err.find(words), std::string::npos) << words << " in " << refused.err;
  }
  EXPECT_EQ(files(), before);
  auto keep = arguments;
  keep.emplace_back("--keep");
  const ProgramResult kept = export_model(keep);
  EXPECT_EQ(kept.exit_code, 0) << kept.err;
  EXPECT_TRUE(fs::exists(folder_ / "result/model.safetensors"));
}

TEST_F(ExportProgram, AnOutputThatExistsIsReplacedOnlyWhereAsked) {
  fs::create_directory(folder_ / "result");
  write_text(folder_ / "result/old.txt", "old");
  const auto arguments = of_base({"--quantization-type", "rtn"});
  expect_refused_cleanly(arguments, {"exists", "--overwrite"});
  EXPECT_EQ(read_text(folder_ / "result/old.txt"), "old");
  auto overwrite = arguments;
  overwrite.emplace_back("--overwrite");
  EXPECT_EQ(export_model(overwrite).exit_code, 0);
  EXPECT_FALSE(fs::exists(folder_ / "result/old.txt"));
  EXPECT_TRUE(fs::exists(folder_ / "result/model.safetensors"));
}

TEST_F(ExportProgram, RefusesWhatCannotBeWritten) {
  expect_refused_cleanly(of_base({"--bits", "3", "--format", "awq"}),
                         {"awq in the format awq at 3 bits", "legal for awq"});
  expect_refused_cleanly(
      {"--model-path", path("model"), "--dataset-name", path("train.jsonl"), "--group-size", "128"},
      {"128", "64"});
  expect_refused_cleanly({"--model-path", path("model"), "--group-size", "17"}, {"group_size"});
  expect_refused_cleanly(of_base({"--max-perplexity-ratio", "0.5"}), {"max_perplexity_ratio"});
  expect_refused_cleanly(of_base({"--set", "export.skip_modules=[\"nothing_proj\"]"}),
                         {"nothing_proj"});
  expect_refused_cleanly({"--dataset-name", path("train.jsonl")}, {"no model is named"});
  expect_refused_cleanly({"--model-path", path("nothing")}, {"nothing"});
  expect_refused_cleanly({"--model-path", path("model"), "--group-size", "32"},
                         {"needs calibration samples"});
  expect_refused_cleanly({"--run", path("model")}, {"config.resolved.json"});
}

TEST_F(ExportProgram, RefusesDamagedInput) {
  write_text(folder_ / "empty.jsonl", "");
  expect_refused_cleanly(
      {"--model-path", path("model"), "--group-size", "32", "--dataset-name", path("empty.jsonl")},
      {"empty.jsonl"});
  plant_nan(folder_ / "model/model.safetensors", "model.layers.1.mlp.up_proj.weight");
  expect_refused_cleanly(of_base({}), {"damaged"});
  expect_refused_cleanly(of_base({"--set", "export.evaluate=false"}), {"not finite"});
}

TEST_F(ExportProgram, RefusesTokensOutsideTheVocabularyAndTooFew) {
  std::vector<int32_t> ids(32, 5);
  const auto write = [&](std::vector<int64_t> shape) {
    const io::TensorView tensor = {.name = "ids",
                                   .dtype = io::DType::kI32,
                                   .shape = std::move(shape),
                                   .bytes = std::as_bytes(std::span(ids))};
    io::write_safetensors(folder_ / "ids.safetensors", std::span(&tensor, 1));
  };
  const std::vector<std::string> arguments = {
      "--model-path", path("model"), "--tokens", path("ids.safetensors:ids"),
      "--group-size", "32",          "--set",    "export.evaluate=false"};
  ids[20] = 5000;
  write({2, 16});
  expect_refused_cleanly(arguments, {"5000"});
  ids = {1, 2, 3, 4};
  write({2, 2});
  expect_refused_cleanly(arguments, {"4 tokens in all"});
}

TEST_F(ExportProgram, RefusesTheAdapterOfAnotherBase) {
  train_run();
  write_tiny_checkpoint(folder_ / "other", {.mlp_width = 192});
  expect_refused_cleanly({"--model-path", path("other"), "--adapter", path("out"), "--dataset-name",
                          path("train.jsonl"), "--group-size", "32"},
                         {"the adapter of", "[64, 192]"});
  write_tiny_checkpoint(folder_ / "other", {.weight_scale = 0.3});  // shapes alike
  expect_refused_cleanly({"--model-path", path("other"), "--adapter", path("out"), "--dataset-name",
                          path("train.jsonl"), "--group-size", "32"},
                         {"trained on " + path("model"), path("other"), "allow_other_base"});
}

TEST_F(ExportProgram, DryRunWritesNothing) {
  const auto before = files();
  const ProgramResult text = export_model(of_base({"--dry-run"}));
  EXPECT_EQ(text.exit_code, 0) << text.err;
  const ProgramResult json = export_model(of_base({"--dry-run", "--json"}));
  const auto plan = nlohmann::json::parse(json.out);
  EXPECT_EQ(plan.at("group_size"), 32);
  EXPECT_EQ(plan.at("matrices"), 14);
  EXPECT_EQ(files(), before);
}

TEST_F(ExportProgram, AutoGroupIsTheLargestThatFits) {
  const ProgramResult json = export_model({"--model-path", path("model"), "--dataset-name",
                                           path("train.jsonl"), "--dry-run", "--json"});
  ASSERT_EQ(json.exit_code, 0) << json.err;
  EXPECT_EQ(nlohmann::json::parse(json.out).at("group_size"), 64);
  EXPECT_NE(json.err.find("64"), std::string::npos) << json.err;
}

TEST_F(ExportProgram, CtrlCStopsAndTheSameCommandFinishes) {
  write_tiny_checkpoint(folder_ / "model", {.layers = 12});
  const auto arguments = of_base({"--quantization-type", "gptq"});
  ASSERT_EQ(export_model(arguments).exit_code, 0);
  const std::string whole = read_text(folder_ / "result/model.safetensors");
  fs::remove_all(folder_ / "result");
  ProgramInput input;
  const fs::path block = folder_ / "result.work/original/blocks/block-00002.safetensors";
  input.while_running = [block, sent = false](pid_t child) mutable {
    if (sent || !fs::exists(block)) return;
    kill(child, SIGINT);
    sent = true;
  };
  const ProgramResult stopped = export_model(arguments, input);
  ASSERT_EQ(stopped.exit_code, 130) << stopped.err;
  EXPECT_NE(stopped.err.find("the same command goes on"), std::string::npos) << stopped.err;
  EXPECT_FALSE(fs::exists(path("result")));
  const ProgramResult finished = export_model(arguments);
  ASSERT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_NE(finished.err.find("resuming: "), std::string::npos) << finished.err;
  EXPECT_EQ(read_text(folder_ / "result/model.safetensors"), whole);
  EXPECT_FALSE(fs::exists(path("result.work")));
}

TEST_F(ExportProgram, TextsBesideATokenFileAreTokenized) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 8 * 16; ++i) ids.push_back(i * 37 % 251);
  const io::TensorView tensor = {.name = "train",
                                 .dtype = io::DType::kI32,
                                 .shape = {8, 16},
                                 .bytes = std::as_bytes(std::span(ids))};
  io::write_safetensors(folder_ / "ids.safetensors", std::span(&tensor, 1));
  config_["data"] = {{"tokens", {{"file", path("ids.safetensors")}, {"eval", "train"}}}};
  train_run();
  const ProgramResult result =
      export_model({"--run", path("out"), "--group-size", "32", "--dataset-name",
                    path("train.jsonl"), "--merge-base", "original"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(ExportProgram, SplitsAreFilesOfAFolder) {
  fs::create_directory(folder_ / "rows");
  fs::copy_file(folder_ / "train.jsonl", folder_ / "rows/validation.jsonl");
  const std::vector<std::string> base = {"--model-path", path("model"), "--group-size", "32"};
  auto wrong = base;
  wrong.insert(wrong.end(), {"--dataset-name", path("rows")});
  expect_refused_cleanly(wrong, {"train", "rows"});
  auto one_file = base;
  one_file.insert(one_file.end(),
                  {"--dataset-name", path("train.jsonl"), "--dataset-split", "validation"});
  expect_refused_cleanly(one_file, {"validation", "train.jsonl"});
  auto right = base;
  right.insert(right.end(), {"--dataset-name", path("rows"), "--dataset-split", "validation"});
  EXPECT_EQ(export_model(right).exit_code, 0);
}

TEST_F(ExportProgram, MergeWritesShardsAndNf4) {
  train_run();
  const ProgramResult merged = qlora(
      {"merge", "--run", path("out"), "--output-dir", path("merged"), "--max-shard-size", "100KB"});
  ASSERT_EQ(merged.exit_code, 0) << merged.err;
  EXPECT_TRUE(fs::exists(folder_ / "merged/model.safetensors.index.json"));
  EXPECT_TRUE(fs::exists(folder_ / "merged/tokenizer.json"));
  const auto index =
      nlohmann::json::parse(read_text(folder_ / "merged/model.safetensors.index.json"));
  std::set<std::string> shards;
  for (const auto& [name, file] : index.at("weight_map").items()) shards.insert(file);
  EXPECT_GT(shards.size(), 1U);
  for (const auto& shard : shards) EXPECT_LT(fs::file_size(folder_ / "merged" / shard), 110'000U);
  const ProgramResult nf4 =
      qlora({"merge", "--run", path("out"), "--output-dir", path("nf4"), "--format", "nf4"});
  ASSERT_EQ(nf4.exit_code, 0) << nf4.err;
  EXPECT_NE(nf4.err.find("rounded to NF4 once more"), std::string::npos) << nf4.err;
  EXPECT_LT(fs::file_size(folder_ / "nf4/model.safetensors"), 150'000U);
  for (const char* name : {"merged", "nf4"}) {
    const ProgramResult text =
        qlora({"generate", "--model-path", path(name), "--prompt", "Say", "--max-new-tokens", "3"});
    EXPECT_EQ(text.exit_code, 0) << text.err;
  }
  expect_refused(qlora({"merge", "--run", path("out"), "--output-dir", path("merged")}),
                 {"exists"});
  expect_refused(qlora({"merge", "--run", path("out"), "--output-dir", path("x"),
                        "--max-shard-size", "5 apples"}),
                 {"5 apples"});
}

}  // namespace
}  // namespace qlora::testing
