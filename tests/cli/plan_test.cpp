// `qlora plan`, and what the program says where memory or a GPU is missing.
#include <dlfcn.h>

#include <array>
#include <filesystem>

#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class PlanProgram : public ProgramTest {
 protected:
  ProgramResult plan(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"plan", path("run.json")});
    return qlora(more);
  }
  Json plan_json(std::vector<std::string> more = {}) const {
    more.emplace_back("--json");
    const ProgramResult result = plan(std::move(more));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return Json::parse(result.out);
  }
};

Json serving(std::vector<std::string> more) {
  more.insert(more.begin(), {"plan", "--inference", "--json"});
  const ProgramResult result = qlora(more);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return Json::parse(result.out);
}

TEST_F(PlanProgram, PartsAddUpAndAreThoseOfTheDryRun) {
  const Json plan = plan_json();
  int64_t sum = 0;
  for (const auto& [name, bytes] : plan.at("memory").items()) sum += bytes.get<int64_t>();
  EXPECT_EQ(plan.at("total_bytes"), sum);
  EXPECT_EQ(plan.at("device"), "cpu");
  EXPECT_EQ(plan.at("fits"), true);
  EXPECT_EQ(plan.at("micro_batch").at("from_data"), true);
  EXPECT_EQ(plan.at("micro_batch").at("rows"), 4);
  EXPECT_EQ(plan.at("disk").at("most_checkpoints"), 3);  // 6 steps, one every 2
  const auto dry = Json::parse(train({"--dry-run", "--json"}).out);
  EXPECT_EQ(plan.at("total_bytes"), dry.at("estimated_bytes"));
  EXPECT_EQ(plan.at("trainable_parameters"), dry.at("trainable_parameters"));
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(PlanProgram, ConfigJsonAloneIsEnough) {
  const Json whole = plan_json({"--no-data"});
  fs::remove(folder_ / "model/model.safetensors");
  fs::remove(folder_ / "model/tokenizer.json");
  fs::remove(folder_ / "train.jsonl");
  const ProgramResult result = plan({"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("the plan goes without data: "), std::string::npos) << result.err;
  Json alone = Json::parse(result.out);
  EXPECT_EQ(alone.at("micro_batch").at("from_data"), false);
  EXPECT_EQ(alone.at("micro_batch").at("tokens"), 4 * 128);
  EXPECT_EQ(alone.at("memory"), whole.at("memory"));
}

TEST_F(PlanProgram, SettingsThatTakeLessAreSortedAndTrue) {
  const std::vector<std::string> large = {"--no-data", "--set", "data.max_length=4096", "--set",
                                          "per_device_train_batch_size=16"};
  const Json plan = plan_json(large);
  const Json& savings = plan.at("savings");
  ASSERT_GE(savings.size(), 3U);
  int64_t before = savings[0].at("saved_bytes");
  for (const Json& saving : savings) {
    EXPECT_LE(saving.at("saved_bytes"), before);
    before = saving.at("saved_bytes");
  }
  std::vector<std::string> changed = large;
  const std::string best = savings[0].at("setting");
  changed.insert(changed.end(), {"--set", best});
  const int64_t saved =
      plan.at("total_bytes").get<int64_t>() - plan_json(changed).at("total_bytes").get<int64_t>();
  EXPECT_EQ(savings[0].at("saved_bytes"), saved) << best;
}

TEST_F(PlanProgram, TheTableHasBarsFitAndAdvice) {
  const ProgramResult fits = plan({"--no-data"});
  EXPECT_EQ(fits.exit_code, 0) << fits.err;
  for (const char* words : {"activations", "█", "total", "fits", "disk", "checkpoint"}) {
    EXPECT_NE(fits.out.find(words), std::string::npos) << words << " is not in\n" << fits.out;
  }
  const ProgramResult small = plan({"--no-data", "--device-memory", "100MB"});
  EXPECT_NE(small.out.find("does not fit"), std::string::npos) << small.out;
  EXPECT_EQ(plan_json({"--no-data", "--device-memory", "100MB"}).at("fits"), false);
}

TEST_F(PlanProgram, AGpuIsFoundByAPartOfItsName) {
  const Json card = plan_json({"--gpu", "rtx4090"});
  EXPECT_EQ(card.at("device"), "cuda");
  EXPECT_EQ(card.at("device_bytes"), 24'000'000'000);
  EXPECT_EQ(plan_json({"--gpu", "h100"}).at("device_bytes"), 80'000'000'000);
  EXPECT_EQ(plan_json({"--gpu", "A100-80"}).at("device_bytes"), 80'000'000'000);
  EXPECT_EQ(plan_json({"--gpu", "L4"}).at("device_bytes"), 24'000'000'000);  // and not the L40S
  expect_refused(plan({"--gpu", "A100"}), {"A100 40GB", "A100 80GB", "say which"});
  expect_refused(plan({"--gpu", "Voodoo"}), {"Voodoo", "RTX 4090", "--device-memory"});
}

TEST_F(PlanProgram, SizesThatAreNoneAreRefused) {
  expect_refused(plan({"--device-memory", "much"}), {"--device-memory", "much", "as in 5GB"});
  expect_refused(plan({"--device-memory", "-3GB"}), {"--device-memory"});
  expect_refused(plan({"--device-memory", "1GB", "--gpu", "L4"}), {"give one"});
  expect_refused(qlora({"plan"}), {"CONFIG", "--inference"});
  expect_refused(plan({"--inference"}), {"--inference", "not with a CONFIG"});
}

TEST(PlanServing, WeightsOf7b13bAnd70b) {
  const std::pair<const char*, std::array<double, 4>> golden[] = {
      {"7B", {28, 14, 7, 3.5}}, {"13B", {52, 26, 13, 6.5}}, {"70B", {280, 140, 70, 35}}};
  for (const auto& [parameters, gigabytes] : golden) {
    const Json plan = serving({"--parameters", parameters});
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_DOUBLE_EQ(plan.at("schemes")[i].at("weights_bytes").get<double>() / 1e9, gigabytes[i])
          << parameters << " " << plan.at("schemes")[i].at("scheme");
    }
  }
  const Json four = serving({"--parameters", "7B", "--bits", "4"});
  ASSERT_EQ(four.at("schemes").size(), 2U);
  EXPECT_EQ(four.at("schemes")[0].at("scheme"), "INT4");
  EXPECT_EQ(four.at("schemes")[1].at("scheme"), "NF4");
}

TEST_F(PlanProgram, ServingAModelCountsItsKeysAndValues) {
  const Json one = serving({"--model-path", path("model"), "--context", "1000"});
  // 2 x 2 layers x 2 kv heads x 16 x 1000 tokens x 2 bytes.
  EXPECT_EQ(one.at("schemes")[0].at("kv_cache_bytes"), 2 * 2 * 2 * 16 * 1000 * 2);
  const Json more = serving(
      {"--model-path", path("model"), "--context", "1000", "--batch", "3", "--kv-bits", "8"});
  EXPECT_EQ(more.at("schemes")[0].at("kv_cache_bytes"), 3 * 2 * 2 * 2 * 16 * 1000);
}

TEST(PlanServing, RecommendsForADeviceAndSaysWhy) {
  const Json large = serving({"--parameters", "7B", "--gpu", "H100"}).at("recommendation");
  EXPECT_EQ(large.at("name"), "16 bits");
  EXPECT_NE(large.at("reason").get<std::string>().find("twice"), std::string::npos);
  const Json small =
      serving({"--parameters", "7B", "--device-memory", "6GB", "--prefer", "accuracy"});
  EXPECT_EQ(small.at("recommendation").at("scheme"), "INT4");
  EXPECT_EQ(small.at("schemes")[0].at("fits"), false);
  const ProgramResult text =
      qlora({"plan", "--inference", "--parameters", "7B", "--device-memory", "6GB"});
  EXPECT_NE(text.out.find("W4A16, AWQ"), std::string::npos) << text.out;
  EXPECT_NE(text.out.find("qlora export --quantization-type awq"), std::string::npos) << text.out;
}

TEST(PlanServing, WrongLinesAreRefused) {
  const auto refused = [](std::vector<std::string> more, const std::vector<std::string>& words) {
    more.insert(more.begin(), {"plan", "--inference"});
    expect_refused(qlora(more), words);
  };
  refused({}, {"--model-path", "--parameters"});
  refused({"--parameters", "7B", "--model-path", "x"}, {"one of"});
  refused({"--parameters", "many"}, {"many", "7B"});
  refused({"--parameters", "7X"}, {"7X"});
  refused({"--parameters", "0B"}, {"0B"});
  refused({"--parameters", "nan"}, {"nan"});
  refused({"--parameters", "7B", "--bits", "5"}, {"--bits", "5"});
  refused({"--parameters", "7B", "--kv-bits", "5"}, {"5 bits"});
  refused({"--parameters", "7B", "--context", "0"}, {"context of 0"});
  refused({"--parameters", "7B", "--prefer", "beauty"}, {"beauty", "accuracy"});
  refused({"--model-path", "/nowhere"}, {"/nowhere"});
}

TEST_F(PlanProgram, DeviceAutoSaysWhyItTakesTheCpu) {
  const ProgramResult result = train({"--set", "max_steps=1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.err.find("device: the CPU, because "), std::string::npos) << result.err;
  const std::string readme = read_text(folder_ / "out/README.md");  // plan beside measurement
  EXPECT_NE(readme.find("| peak memory |"), std::string::npos) << readme;
  EXPECT_NE(readme.find("; planned "), std::string::npos) << readme;
  const ProgramResult cpu =
      train({"--set", "max_steps=1", "--device", "cpu", "--output-dir", path("second")});
  ASSERT_EQ(cpu.exit_code, 0) << cpu.err;
  EXPECT_EQ(cpu.err.find("device: the CPU"), std::string::npos) << cpu.err;
}

TEST_F(PlanProgram, DeviceCudaIsRefusedWithTheReason) {
  expect_refused(train({"--device", "gpu"}), {"device", "gpu", "cuda"});
  if (dlopen("libcuda.so.1", RTLD_LAZY) != nullptr) GTEST_SKIP() << "a CUDA driver is there";
  expect_refused(train({"--device", "cuda"}), {"no NVIDIA driver", "choose the device cpu"});
  expect_refused(qlora({"perplexity", "--model-path", path("model"), "--device", "cuda", "--text",
                        path("train.jsonl")}),
                 {"no NVIDIA driver"});
}

/// 2.5 GB of addresses are enough to start, but not for a micro-batch of half a million tokens.
TEST_F(PlanProgram, MemoryThatRunsOutIsToldWithPlanAndAdvice) {
  config_["per_device_train_batch_size"] = 8192;
  write_text(folder_ / "train.jsonl", tiny_instruction_rows(8192));
  config_["eval_strategy"] = "no";
  config_["data"].erase("eval_dataset_name");
  write_config();
  const ProgramResult result = run_program(
      "/bin/sh",
      {"-c", "ulimit -v 2500000; exec \"$0\" train \"$1\"", program_path(), path("run.json")},
      {.environment = {"OMP_NUM_THREADS=1"}});
  expect_refused(
      result, {"[memory] the machine ran out of memory while allocating the activations of step 1",
               "more asked for", "the plan is", "activations",
               "what helps most: ", "per_device_train_batch_size=4096 (-"});
}

}  // namespace
}  // namespace qlora::testing
