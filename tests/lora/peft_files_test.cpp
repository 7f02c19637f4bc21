#include "lora/peft_files.h"

#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "io/safetensors.h"
#include "lora/tensor_view.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::lora {
namespace {

namespace fs = std::filesystem;
using testing::message_of;
using testing::TemporaryFolder;

fs::path parity() {
  return fs::path(QLORA_SOURCE_DIR) / "tests/fixtures/parity";
}

NamedAdapter adapter(const std::string& module, int64_t r, double alpha, torch::ScalarType dtype) {
  return {module,
          {.a = at::randn({r, 8}),
           .b = at::randn({6, r}),
           .alpha = alpha,
           .scale = alpha / static_cast<double>(r),
           .dtype = dtype}};
}

class PeftScales : public ::testing::TestWithParam<std::string> {};

TEST_P(PeftScales, EveryModuleHasPeftsScale) {
  const auto folder = parity() / "adapters" / GetParam();
  const auto read = read_peft_adapter(folder);
  std::ifstream file(folder / "reference.json");
  const auto scales = nlohmann::json::parse(file).at("scales");
  ASSERT_EQ(read.modules.size(), scales.size());
  for (const auto& [module, matrices] : read.modules) {
    EXPECT_DOUBLE_EQ(matrices.scale, scales.at(module).get<double>()) << module;
  }
}

INSTANTIATE_TEST_SUITE_P(Peft, PeftScales,
                         ::testing::Values("all_linear", "patterns", "patterns_in_file_order",
                                           "q_v_only", "regex", "rslora", "rslora_patterns"),
                         [](const auto& info) { return info.param; });

TEST(PeftFiles, WhatPlainLoraWouldSilentlyDropIsRefusedByName) {
  for (const auto& entry : fs::directory_iterator(parity() / "refused")) {
    EXPECT_ERROR(FormatError, read_peft_adapter(entry.path()), "not supported") << entry.path();
  }
}

TEST(PeftFiles, WhatIsWrittenIsReadBackExactly) {
  for (const auto dtype : {torch::kFloat16, torch::kBFloat16, torch::kFloat32}) {
    const TemporaryFolder folder;
    const std::vector<NamedAdapter> written = {
        adapter("model.layers.0.self_attn.q_proj", 4, 8, dtype),
        adapter("model.layers.0.mlp.up_proj", 4, 8, dtype),
        adapter("model.layers.1.self_attn.q_proj", 2, 8, dtype),
        adapter("model.layers.1.mlp.up_proj", 4, 3, dtype)};
    write_peft_adapter(folder / "adapter", written, {}, "base/model");
    const auto read = read_peft_adapter(folder / "adapter");
    EXPECT_EQ(read.base_model, "base/model");
    ASSERT_EQ(read.modules.size(), written.size());
    for (const auto& [module, adapter] : written) {
      const auto& matrices = read.modules.at(module);
      EXPECT_TRUE(matrices.a.equal(adapter.a.to(dtype).to(torch::kFloat32))) << module;
      EXPECT_TRUE(matrices.b.equal(adapter.b.to(dtype).to(torch::kFloat32))) << module;
      EXPECT_DOUBLE_EQ(matrices.scale, adapter.scale) << module;
    }
  }
}

TEST(PeftFiles, TheNamesAndKeysAreThoseThatPeftReads) {
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat16)},
                     {}, "base");
  const io::SafetensorsReader reader(folder / "adapter_model.safetensors");
  EXPECT_NE(reader.find("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"), nullptr);
  EXPECT_NE(reader.find("base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"), nullptr);
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  std::ifstream file(folder / "adapter_config.json");
  const auto config = nlohmann::json::parse(file);
  EXPECT_EQ(config.at("peft_type"), "LORA");
  EXPECT_EQ(config.at("task_type"), "CAUSAL_LM");
  EXPECT_EQ(config.at("r"), 4);
  EXPECT_EQ(config.at("lora_alpha"), 8);
  EXPECT_EQ(config.at("target_modules"), nlohmann::json::array({"up_proj"}));
}

nlohmann::json written_config(const std::vector<NamedAdapter>& adapters,
                              const LoraOptions& options) {
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), adapters, options, "base");
  std::ifstream file(folder / "adapter_config.json");
  return nlohmann::json::parse(file);
}

TEST(PeftFiles, TargetsAreFullNamesWhereEndingsWouldSelectMore) {
  // One layer of several; the adapters alone cannot tell.
  const std::vector<NamedAdapter> adapters = {
      adapter("model.layers.1.self_attn.o_proj", 4, 8, torch::kFloat32),
      adapter("model.layers.1.mlp.up_proj", 4, 8, torch::kFloat32)};
  const auto endings = nlohmann::json::array({"o_proj", "up_proj"});
  const auto names =
      nlohmann::json::array({"model.layers.1.mlp.up_proj", "model.layers.1.self_attn.o_proj"});
  const auto targets = [&](const LoraOptions& options) {
    return written_config(adapters, options).at("target_modules");
  };
  EXPECT_EQ(targets({}), endings);
  EXPECT_EQ(targets({.target_modules = {"o_proj", "up_proj"}}), endings);
  EXPECT_EQ(targets({.target_modules = {R"(.*\.1\..*\.(o|up)_proj)"}}), names);
  EXPECT_EQ(targets({.target_modules = {"1.self_attn.o_proj", "1.mlp.up_proj"}}), names);
  EXPECT_EQ(targets({.init_adapter = "some/adapter"}), names);
}

TEST(PeftFiles, RsLoraIsWrittenWhereTheAdaptersUseItWhateverTheOptionsSay) {
  auto plain = adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat32);
  auto rslora = plain;
  rslora.adapter.scale = 8 / std::sqrt(4.0);
  EXPECT_EQ(written_config({plain}, {.use_rslora = true}).at("use_rslora"), false);
  EXPECT_EQ(written_config({rslora}, {.use_rslora = false}).at("use_rslora"), true);
}

TEST(PeftFiles, NumbersThatOverflowFp16AreRefusedBeforeAnythingIsWritten) {
  const TemporaryFolder folder;
  auto huge = adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat16);
  huge.adapter.a[0][0] = 1e6f;
  EXPECT_ERROR(ValueError, write_peft_adapter(folder / "out", {huge}, {}, "base"), "not finite");
  EXPECT_FALSE(fs::exists(folder / "out" / "adapter_model.safetensors"));
  EXPECT_THROW(write_peft_adapter(folder / "out", {}, {}, "base"), ValueError);
}

/// A good adapter whose configuration is changed by `change`; the message of reading it.
std::string read_changed(const std::function<void(nlohmann::json&)>& change) {
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat16)},
                     {}, "base");
  nlohmann::json config;
  std::ifstream(folder / "adapter_config.json") >> config;
  change(config);
  testing::write_text(folder / "adapter_config.json", config.dump());
  return message_of<FormatError>([&] { read_peft_adapter(folder.path()); });
}

TEST(PeftFiles, AConfigurationThatLiesIsRefused) {
  EXPECT_SAYS(read_changed([](auto& c) { c["r"] = 5; }), "rank is 5");
  EXPECT_SAYS(read_changed([](auto& c) { c["r"] = -1; }), "r is -1");
  EXPECT_SAYS(read_changed([](auto& c) { c["r"] = "four"; }), "r is \"four\"");
  EXPECT_SAYS(read_changed([](auto& c) { c.erase("r"); }), "r is missing");
  EXPECT_SAYS(read_changed([](auto& c) { c["lora_alpha"] = 0; }), "lora_alpha is 0");
  EXPECT_SAYS(read_changed([](auto& c) { c["lora_dropout"] = 1.5; }), "lora_dropout is 1.5");
  EXPECT_SAYS(read_changed([](auto& c) { c["peft_type"] = "IA3"; }), "peft_type is \"IA3\"");
  EXPECT_SAYS(read_changed([](auto& c) { c["rank_pattern"] = 3; }), "rank_pattern is a number");
  EXPECT_SAYS(read_changed([](auto& c) {
                c["rank_pattern"] = {{"up_proj", "x"}};
              }),
              "allowed a number");
  EXPECT_SAYS(read_changed([](auto& c) { c["target_modules"] = 7; }), "target_modules is 7");
  EXPECT_SAYS(read_changed([](auto& c) { c = nlohmann::json::array(); }), "allowed an object");
}

TEST(PeftFiles, AStartThatChangedTheBaseIsRefusedByName) {
  for (const char* name :
       {"pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "lora_ga", "loftq", "tomorrow"}) {
    const std::string message = read_changed([&](auto& c) { c["init_lora_weights"] = name; });
    EXPECT_SAYS(message, "init_lora_weights is \"" + std::string(name) + "\"");
    EXPECT_SAYS(message, "not supported");
  }
  EXPECT_SAYS(read_changed([](auto& c) { c["init_lora_weights"] = 1; }), "init_lora_weights is 1");
}

TEST(PeftFiles, AStartOfTheAdapterAloneIsRead) {
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat16)},
                     {}, "base");
  nlohmann::json config;
  std::ifstream(folder / "adapter_config.json") >> config;
  using Json = nlohmann::json;
  for (const Json& start :
       {Json(true), Json(false), Json(), Json("gaussian"), Json("eva"), Json("orthogonal")}) {
    config["init_lora_weights"] = start;
    testing::write_text(folder / "adapter_config.json", config.dump());
    EXPECT_NO_THROW(read_peft_adapter(folder.path())) << start;
  }
  config.erase("init_lora_weights");
  testing::write_text(folder / "adapter_config.json", config.dump());
  EXPECT_NO_THROW(read_peft_adapter(folder.path()));
}

TEST(InitAdapter, ASectionHasToAgreeWithItsAdapterOrSayNothing) {
  const auto file = read_peft_adapter(parity() / "adapters/all_linear");
  ASSERT_EQ(file.options.r, 4);
  ASSERT_EQ(file.options.lora_alpha, 8);
  EXPECT_FALSE(check_init_adapter(file, {.r = 4, .lora_alpha = 8}));
  const auto told = check_init_adapter(file, {.init_adapter = "start"});
  ASSERT_TRUE(told);
  EXPECT_SAYS(*told, "start has r 4, lora_alpha 8");
  const auto refused = [&](const LoraOptions& section) {
    return message_of<ConfigError>([&] { check_init_adapter(file, section); });
  };
  EXPECT_SAYS(refused({.r = 5, .lora_alpha = 8}), "section lora says 5, 8 and false");
  EXPECT_SAYS(refused({.r = 5, .lora_alpha = 8}), "set lora.r=4 lora.lora_alpha=8");
  EXPECT_SAYS(refused({.r = 4}), "says 4, 32 and false");  // alpha alone is left at its default
  EXPECT_SAYS(refused({.r = 4, .lora_alpha = 8, .use_rslora = true}), "lora.use_rslora=false");
  EXPECT_SAYS(refused({.r = 4, .lora_alpha = 8, .rank_pattern = {{"q_proj", 5}}}), "q_proj");
}

TEST(InitAdapter, APatternForNoneOfItsModulesIsRefusedInTheSectionAndReadInTheFile) {
  const auto file = read_peft_adapter(parity() / "adapters/q_v_only");
  EXPECT_ERROR(ConfigError,
               check_init_adapter(file, {.r = file.options.r,
                                         .lora_alpha = file.options.lora_alpha,
                                         .rank_pattern = {{"up_proj", 4}}}),
               "rank_pattern has 'up_proj', which matches none");
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat16)},
                     {}, "base");
  nlohmann::json config;
  std::ifstream(folder / "adapter_config.json") >> config;
  config["rank_pattern"] = {{"q_proj", 2}};  // peft passes over it
  testing::write_text(folder / "adapter_config.json", config.dump());
  EXPECT_EQ(read_peft_adapter(folder.path()).modules.size(), 1U);
}

TEST(InitAdapter, PatternsCountByWhatTheyMeanForEachModule) {
  const auto file = read_peft_adapter(parity() / "adapters/rslora_patterns");
  const LoraOptions same{.r = 4,
                         .lora_alpha = 8,
                         .rank_pattern = {{".*up_proj", 9}},
                         .alpha_pattern = {{"q_proj", 32}, {"up_proj", 2}},
                         .use_rslora = true};
  EXPECT_FALSE(check_init_adapter(file, same));
  LoraOptions other = same;
  other.use_rslora = false;
  EXPECT_ERROR(ConfigError, check_init_adapter(file, other), "and its patterns");
}

TEST(PeftFiles, AMissingHalfAForeignTensorAndANanAreRefused) {
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat32)},
                     {}, "base");
  const auto rewrite = [&](const std::string& name, const torch::Tensor& tensor) {
    const io::TensorView view = tensor_view(name, tensor);
    io::write_safetensors(folder / "adapter_model.safetensors", {&view, 1});
    return message_of<FormatError>([&] { read_peft_adapter(folder.path()); });
  };
  const std::string good = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
  EXPECT_SAYS(rewrite(good, at::randn({4, 8})), "no lora_B");
  EXPECT_SAYS(rewrite("embed_tokens.weight", at::randn({4, 8})), "no LoRA matrix");
  EXPECT_SAYS(rewrite(good, at::full({4, 8}, NAN)), "not finite");
  EXPECT_SAYS(rewrite(good, at::randn({4})), "two dimensions");
}

TEST(PeftFiles, AMatrixOfIntegersIsRefusedWithFileTensorAndTypes) {
  const TemporaryFolder folder;
  write_peft_adapter(folder.path(), {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat32)},
                     {}, "base");
  const std::string name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
  const torch::Tensor integers = at::full({4, 8}, 1, torch::kInt32);
  const io::TensorView view = tensor_view(name, integers);
  io::write_safetensors(folder / "adapter_model.safetensors", {&view, 1});
  const std::string said = message_of<FormatError>([&] { read_peft_adapter(folder.path()); });
  EXPECT_SAYS(said, name + " is of type I32, allowed F16, BF16, F32");
  EXPECT_SAYS(said, (folder / "adapter_model.safetensors").string());
}

TEST(PeftFiles, TheWeightsComeLast) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "adapter_config.json" / "in the way");
  EXPECT_THROW(write_peft_adapter(folder.path(),
                                  {adapter("model.layers.0.mlp.up_proj", 4, 8, torch::kFloat32)},
                                  {}, "base"),
               IoError);
  EXPECT_FALSE(fs::exists(folder / "adapter_model.safetensors"));
}

TEST(PeftFiles, MissingFilesAreNamed) {
  const TemporaryFolder folder;
  EXPECT_ERROR(IoError, read_peft_adapter(folder.path()), "adapter_config.json");
}

}  // namespace
}  // namespace qlora::lora
