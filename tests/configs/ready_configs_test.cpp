#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "configs/run_config.h"
#include "core/json_file.h"
#include "tests/support/temporary_folder.h"

namespace qlora::configs {
namespace {

using testing::read_text;

const std::string kFolder = QLORA_SOURCE_DIR "/configs/";

/// Those hold the section `export` alone and are read over a run's own configuration.
bool is_export(const std::filesystem::path& path) {
  return path.filename().string().starts_with("export-");
}

TEST(ReadyConfigs, ExportsChangeNothingButTheExport) {
  const Json defaults = write_fields(RunConfig{});
  for (const char* name : {"prototype", "production", "low-memory", "accuracy"}) {
    const std::string file = kFolder + "export-" + name + ".json";
    RunConfig config;
    EXPECT_TRUE(read_fields(read_json_file(file), config, file).notices.empty()) << name;
    Json read = write_fields(config);
    EXPECT_NE(read["export"], defaults["export"]) << name;
    read["export"] = defaults["export"];
    EXPECT_EQ(read, defaults) << name;
  }
}

TEST(ReadyConfigs, ExportsAreThoseThatAreDocumented) {
  const auto options = [](const char* name) {
    RunConfig config;
    const std::string file = kFolder + "export-" + name + ".json";
    read_fields(read_json_file(file), config, file);
    return config.exporting;
  };
  EXPECT_EQ(options("prototype").grid.bits, 4);
  EXPECT_EQ(options("prototype").calibration.samples, 128);
  EXPECT_EQ(options("production").grid.type, exporter::QuantizationType::kAwq);
  EXPECT_EQ(options("production").grid.bits, 4);
  EXPECT_EQ(options("production").grid.group_size, exporter::GroupSize::k128);
  EXPECT_EQ(options("production").calibration.samples, 1024);
  EXPECT_EQ(options("production").evaluation.max_perplexity_ratio, 1.15);
  EXPECT_EQ(options("low-memory").grid.bits, 4);
  EXPECT_EQ(options("low-memory").calibration.samples, 256);
  EXPECT_EQ(options("accuracy").grid.bits, 8);
  EXPECT_EQ(options("accuracy").grid.group_size, exporter::GroupSize::k64);
  EXPECT_EQ(options("accuracy").calibration.samples, 2048);
  for (const char* name : {"prototype", "low-memory", "accuracy"}) {
    EXPECT_FALSE(options(name).evaluation.max_perplexity_ratio) << name;
  }
}

TEST(LoadedConfig, AnExportSectionMeansToExportAfterTraining) {
  const std::string file = kFolder + "llama-7b-24gb.json";
  EXPECT_EQ(load_run_config(file, {}).config.exporting.after_training, false);
  EXPECT_EQ(load_run_config(file, {"export.bits=8"}).config.exporting.after_training, true);
  EXPECT_EQ(load_run_config(file, {"export.bits=8", "export.after_training=false"})
                .config.exporting.after_training,
            false);
}

TEST(ReadyConfigs, AllAreValidAndComplete) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    if (entry.path().extension() != ".json" || is_export(entry.path())) continue;
    ++count;
    const LoadedConfig loaded = load_run_config(entry.path(), {});
    const bool is_recipe = entry.path().filename() == "qlora-recipe.json";
    EXPECT_EQ(loaded.notices.size(), is_recipe ? 1u : 0u) << entry.path();
    EXPECT_TRUE(loaded.config.training.output_dir.starts_with("runs/")) << entry.path();
  }
  EXPECT_EQ(count, 4);
}

TEST(ReadyConfigs, RecipeIsTheOneThatIsDocumented) {
  const LoadedConfig loaded = load_run_config(kFolder + "qlora-recipe.json", {});
  const RunConfig& c = loaded.config;
  EXPECT_EQ(c.lora.r, 16);
  EXPECT_EQ(c.lora.lora_alpha, 32);
  EXPECT_EQ(c.lora.lora_dropout, 0.05);
  EXPECT_EQ(c.lora.target_modules, (std::vector<std::string>{"q_proj", "k_proj", "v_proj", "o_proj",
                                                             "gate_proj", "up_proj", "down_proj"}));
  EXPECT_EQ(c.lora.adapter_dtype, lora::AdapterDtype::kFloat16);
  EXPECT_FALSE(c.lora.use_rslora);
  EXPECT_EQ(c.training.optimizer.learning_rate, 2e-4);
  EXPECT_EQ(c.training.optimizer.kind, trainer::OptimizerKind::kPagedAdamW8bit);
  EXPECT_EQ(c.training.schedule.kind, trainer::ScheduleKind::kLinear);
  EXPECT_EQ(c.training.schedule.warmup_ratio, 0.03);
  EXPECT_EQ(c.training.schedule.warmup_steps, 0);
  EXPECT_EQ(c.training.batching.per_device_train_batch_size, 4);
  EXPECT_EQ(c.training.batching.gradient_accumulation_steps, 4);
  EXPECT_FALSE(c.training.batching.packing);
  EXPECT_EQ(c.training.num_train_epochs, 3);
  EXPECT_EQ(c.training.max_steps, -1);
  EXPECT_EQ(c.training.logging_steps, 10);
  EXPECT_EQ(c.training.save.strategy, trainer::Strategy::kEpoch);
  EXPECT_TRUE(c.training.gradient_checkpointing);
  EXPECT_TRUE(c.training.fp16);
  EXPECT_EQ(c.compute_dtype, model::ComputeDtype::kBFloat16);
  EXPECT_EQ(c.data.example.max_length, 512);
  EXPECT_EQ(c.data.example.overlong, data::Overlong::kTruncate);
  EXPECT_EQ(c.data.example.loss_on, data::LossOn::kAll);
  EXPECT_EQ(c.data.example.prompt_template, data::PromptTemplate::kDolly);
  EXPECT_TRUE(c.quantization.load_in_4bit);
  EXPECT_EQ(c.quantization.four_bit.quant_type, quant::FourBitType::kNf4);
  EXPECT_TRUE(c.quantization.four_bit.double_quant);
  ASSERT_EQ(loaded.notices.size(), 1u);
  EXPECT_NE(loaded.notices[0].find("the compute type bf16 wins"), std::string::npos);
}

TEST(ConfigPage, IsNotStale) {
  EXPECT_EQ(read_text(QLORA_SOURCE_DIR "/docs/config.md"), config_page())
      << "run: build/bin/qlora config docs > docs/config.md";
}

TEST(ConfigPage, HasEveryKey) {
  const std::string page = config_page();
  RunConfig config;
  const FieldList list = detail::list_fields(config);
  for (const char* key : {"learning_rate", "lora.r", "data.tokens.file", "loss_scaling.kind"}) {
    EXPECT_NE(page.find("| `" + std::string(key) + "` |"), std::string::npos) << key;
  }
  for (const Field& field : list.entries()) {
    EXPECT_NE(page.find("`" + field.key + "`"), std::string::npos) << field.key;
  }
}

// What the schema of one value demands, for the keywords that schema_fields writes.
bool conforms(const Json& value, const Json& schema) {
  if (schema.contains("anyOf")) {
    for (const Json& option : schema["anyOf"]) {
      if (conforms(value, option)) return true;
    }
    return false;
  }
  const auto is_type = [&](const std::string& type) {
    if (type == "integer") return value.is_number_integer();
    if (type == "number") return value.is_number();
    return type == value.type_name();
  };
  bool type_fits = false;
  const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  for (const Json& type : types) type_fits |= is_type(type);
  if (!type_fits) return false;
  if (schema.contains("enum")) {
    return std::find(schema["enum"].begin(), schema["enum"].end(), value) != schema["enum"].end();
  }
  if (value.is_number()) {
    const double x = value.get<double>();
    return x >= schema.value("minimum", -1e308) && x <= schema.value("maximum", 1e308) &&
           (!schema.contains("exclusiveMinimum") || x > schema["exclusiveMinimum"].get<double>());
  }
  if (value.is_string()) {
    return value.get<std::string>().size() >= schema.value("minLength", size_t{0});
  }
  if (value.is_array()) {
    if (value.size() < schema.value("minItems", size_t{0})) return false;
    for (const Json& item : value) {
      if (!conforms(item, schema["items"])) return false;
    }
  }
  if (value.is_object() && schema.contains("properties")) {
    for (const auto& [key, item] : value.items()) {
      if (!schema["properties"].contains(key)) return false;  // additionalProperties is false
      if (!conforms(item, schema["properties"][key])) return false;
    }
  }
  return true;
}

TEST(ConfigSchema, AcceptsTheReadyConfigsAndTheirResolvedForms) {
  const Json schema = config_schema();
  EXPECT_TRUE(conforms(write_fields(RunConfig{}), schema));
  for (const char* name : {"prototype", "production", "low-memory", "accuracy"}) {
    EXPECT_TRUE(conforms(read_json_file(kFolder + "export-" + name + ".json"), schema)) << name;
  }
  for (const char* name : {"smollm2-quickstart.json", "qlora-recipe.json", "llama-7b-24gb.json"}) {
    EXPECT_TRUE(conforms(read_json_file(kFolder + name), schema)) << name;
    EXPECT_TRUE(conforms(write_fields(load_run_config(kFolder + name, {}).config), schema)) << name;
  }
}

TEST(ConfigSchema, RefusesWhatTheReaderRefuses) {
  const Json schema = config_schema();
  const Json wrong[] = {
      {{"learning_rat", 1}},  {{"learning_rate", "1"}}, {{"learning_rate", -1}},
      {{"lora", {{"r", 0}}}}, {{"lora", {{"r", 1.5}}}}, {{"lora", {{"rr", 1}}}},
      {{"optim", "sgd"}},     {{"output_dir", ""}},     {{"lora", {{"lora_alpha", 0}}}},
      {{"report_to", {1}}}};
  for (const Json& document : wrong) {
    EXPECT_FALSE(conforms(document, schema)) << document;
    RunConfig config;
    EXPECT_ANY_THROW(read_fields(document, config, "f")) << document;
  }
}

TEST(ExplainKey, ExplainsKeysAndSections) {
  EXPECT_TRUE(explain_key("lora.r").starts_with("lora.r: "));
  EXPECT_TRUE(explain_key("data").starts_with("data: What is trained on."));
  EXPECT_NE(explain_key("").find("  learning_rate"), std::string::npos);
  EXPECT_ANY_THROW(explain_key("lora.x"));
  EXPECT_EQ(explain_key_json("lora.r")["default"], 16);
}

}  // namespace
}  // namespace qlora::configs
