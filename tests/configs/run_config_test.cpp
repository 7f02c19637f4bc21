#include "configs/run_config.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "core/error.h"
#include "core/json_file.h"
#include "core/rng.h"
#include "tests/configs/small_config.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::configs {
namespace {

using model::ComputeDtype;

std::string written(const std::string& text) {
  static const testing::TemporaryFolder folder;
  return folder.put("run_config.json", text).string();
}

TEST(LoadRunConfig, ReadsFileThenOverrides) {
  const auto path = written(R"({"model": "m", "dataset_name": "d", "lora": {"r": 8}, "seed": 1})");
  const LoadedConfig loaded = load_run_config(path, {"lora.r=4", "data.max_length=64", "lora.r=5"});
  EXPECT_EQ(loaded.config.model_name_or_path, "m");
  EXPECT_EQ(loaded.config.data.dataset_name, "d");
  EXPECT_EQ(loaded.config.lora.r, 5);
  EXPECT_EQ(loaded.config.training.seed, 1u);
  EXPECT_EQ(loaded.config.data.example.max_length, 64);
  EXPECT_EQ(loaded.notices.size(), 2u);
}

TEST(LoadRunConfig, NamesFileAndPathOfATypo) {
  const auto path = written(R"({"model_name_or_path": "m", "lora": {"rnak": 8}})");
  EXPECT_EQ(testing::message_of<ConfigError>([&] { load_run_config(path, {}); }),
            "[config] lora.rnak is not a key; did you mean lora.r? (" + path + ", at /lora/rnak)");
  EXPECT_THROW(load_run_config("no/such/file.json", {}), IoError);
  EXPECT_THROW(load_run_config(written("{\"a\": "), {}), FormatError);
}

TEST(LoadRunConfig, ResolvedConfigReadsBackTheSame) {
  const auto path = written(R"({"model": "m", "dataset_name": "d", "fp16": true, "max_steps": 9,
    "bnb_4bit_compute_dtype": "bfloat16", "lora": {"rank_pattern": {"q_proj": 4}}})");
  const RunConfig config = load_run_config(path, {}).config;
  EXPECT_EQ(config.compute_dtype, ComputeDtype::kBFloat16);
  const std::string resolved = write_fields(config).dump(2);
  const LoadedConfig again = load_run_config(written(resolved), {});
  EXPECT_EQ(write_fields(again.config).dump(2), resolved);
  EXPECT_EQ(again.notices.size(), 1u);  // that fp16 does not count
}

TEST(RunConfig, DefaultsMeetTheirConstraints) {
  EXPECT_NO_THROW(validate_fields(RunConfig{}));
  RunConfig config = small_config();
  EXPECT_TRUE(resolve(config).empty());
}

// A synonym that shadows a key, stands twice or leads nowhere would be found by a user otherwise.
void check_synonyms(const FieldList& list) {
  std::set<std::string> seen;
  for (const auto& [old_name, key] : list.aliases()) {
    EXPECT_EQ(list.find(old_name), nullptr) << old_name << " is a key as well";
    EXPECT_NE(list.find(key), nullptr) << old_name << " stands for " << key;
    EXPECT_TRUE(seen.insert(old_name).second) << old_name << " stands twice";
  }
  for (const Field& field : list.entries()) {
    EXPECT_FALSE(field.doc.empty()) << field.key;
    if (field.section) check_synonyms(*field.section);
  }
}

TEST(RunConfig, SynonymsAreSound) {
  RunConfig config;
  check_synonyms(detail::list_fields(config));
}

TEST(RunConfig, KnowsTheNamesOfTransformersPeftAndTrl) {
  for (const char* key : {"model_name_or_path",
                          "output_dir",
                          "seed",
                          "learning_rate",
                          "num_train_epochs",
                          "max_steps",
                          "per_device_train_batch_size",
                          "per_device_eval_batch_size",
                          "gradient_accumulation_steps",
                          "gradient_checkpointing",
                          "lr_scheduler_type",
                          "warmup_ratio",
                          "warmup_steps",
                          "weight_decay",
                          "max_grad_norm",
                          "adam_beta1",
                          "adam_beta2",
                          "adam_epsilon",
                          "optim",
                          "fp16",
                          "bf16",
                          "logging_steps",
                          "eval_strategy",
                          "eval_steps",
                          "save_strategy",
                          "save_steps",
                          "save_total_limit",
                          "load_best_model_at_end",
                          "report_to",
                          "neftune_noise_alpha",
                          "packing",
                          "lora.r",
                          "lora.lora_alpha",
                          "lora.lora_dropout",
                          "lora.target_modules",
                          "lora.rank_pattern",
                          "lora.alpha_pattern",
                          "lora.use_rslora",
                          "lora.init_adapter",
                          "data.tokens.file",
                          "data.dataset_name",
                          "data.max_length",
                          "quantization.load_in_4bit",
                          "quantization.bnb_4bit_quant_type",
                          "quantization.bnb_4bit_use_double_quant",
                          "quantization.bnb_4bit_compute_dtype",
                          "compute_dtype",
                          "device",
                          "threads"}) {
    RunConfig config;
    EXPECT_NE(detail::list_fields(config).find(key), nullptr) << key;
  }
}

TEST(ModelOptions, CarryWhatLoadingTakes) {
  RunConfig config = small_config();
  config.device = model::DeviceChoice::kCpu;
  config.compute_dtype = ComputeDtype::kFloat32;
  config.quantization.load_in_4bit = false;
  config.quantization.cache_dir = "cache";
  const model::ModelOptions options = model_options(config);
  EXPECT_EQ(options.model_path, "m");
  EXPECT_EQ(options.device, model::DeviceChoice::kCpu);
  EXPECT_EQ(options.compute_dtype, ComputeDtype::kFloat32);
  EXPECT_FALSE(options.load_in_4bit);
  EXPECT_EQ(options.cache_dir, "cache");
}

// Weights are rounded to a grid on the CPU alone.
TEST(ModelOptions, AutoIsTheCpuWhereARunRounds) {
  RunConfig config = small_config();
  EXPECT_EQ(model_options(config).device, model::DeviceChoice::kAuto);
  config.qat.scheme = exporter::QatScheme::kInt4Gptq;
  ASSERT_TRUE(config.qat.is_on());
  EXPECT_EQ(model_options(config).device, model::DeviceChoice::kCpu);
  config.device = model::DeviceChoice::kCuda;
  EXPECT_EQ(model_options(config).device, model::DeviceChoice::kCuda);  // refused by the decoder
}

// Every key in turn gets values of every JSON type and of every extreme: an error or a value,
// never a crash, and what was accepted reads back.
void fuzz_section(const FieldList& list, const std::string& prefix, int& accepted) {
  const Json values[] = {nullptr,
                         true,
                         0,
                         -1,
                         1,
                         3,
                         0.5,
                         1e300,
                         1ull << 63,
                         "",
                         "a",
                         "auto",
                         "none",
                         "\"",
                         Json::array(),
                         Json::array({"a"}),
                         Json::array({1}),
                         Json::object(),
                         {{"a", 1}},
                         {{"a", {{"b", 1}}}}};
  for (const Field& field : list.entries()) {
    const std::string path = prefix + field.key;
    if (field.section) fuzz_section(*field.section, path + ".", accepted);
    for (const Json& value : values) {
      Json document = value;
      for (std::string rest = path; !rest.empty();) {
        const size_t dot = rest.rfind('.');
        document = Json{{rest.substr(dot + 1), document}};
        rest = dot == std::string::npos ? "" : rest.substr(0, dot);
      }
      RunConfig config, again;
      try {
        read_fields(document, config, "f");
      } catch (const ConfigError& error) {
        EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
        continue;
      }
      const Json resolved = write_fields(config);
      read_fields(parse_json(resolved.dump(), "f"), again, "f");
      EXPECT_EQ(write_fields(again), resolved);
      ++accepted;
    }
  }
}

TEST(RunConfig, EveryKeySurvivesEveryValue) {
  RunConfig config;
  int accepted = 0;
  fuzz_section(detail::list_fields(config), "", accepted);
  EXPECT_GT(accepted, 200);
}

TEST(RunConfig, SurvivesMutatedFiles) {
  const std::string source = QLORA_SOURCE_DIR "/configs/qlora-recipe.json";
  const std::string recipe = testing::read_text(source);
  ASSERT_GT(recipe.size(), 1000u);
  Rng rng(11);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = recipe;
    for (uint64_t edits = 1 + rng.below(3); edits > 0; --edits) {
      const uint64_t at = rng.below(text.size());
      if (rng.below(2)) text[at] = static_cast<char>(rng.below(256));
      if (rng.below(4) == 0) text.erase(at, rng.below(40));
    }
    try {
      RunConfig config;
      read_fields(parse_json(text, "f"), config, "f");
      resolve(config);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

}  // namespace
}  // namespace qlora::configs
