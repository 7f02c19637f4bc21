#include "configs/run_config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "core/error.h"
#include "core/json_file.h"
#include "core/rng.h"

namespace qlora::configs {
namespace {

using model::ComputeDtype;

// The least that a run has to say.
RunConfig small_config() {
  RunConfig config;
  config.model_name_or_path = "m";
  config.data.dataset_name = "d.jsonl";
  return config;
}

std::string written(const std::string& text) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "qlora_run_config.json";
  std::ofstream(path) << text;
  return path.string();
}

std::string error_of(const std::function<void(RunConfig&)>& change) {
  RunConfig config = small_config();
  change(config);
  try {
    resolve(config);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string only_notice(const std::function<void(RunConfig&)>& change) {
  RunConfig config = small_config();
  change(config);
  const auto notices = resolve(config);
  return notices.size() == 1 ? notices[0] : std::to_string(notices.size()) + " notices";
}

ComputeDtype decided(const std::function<void(RunConfig&)>& change) {
  RunConfig config = small_config();
  change(config);
  resolve(config);
  return config.compute_dtype;
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
  try {
    load_run_config(path, {});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_EQ(std::string(error.what()), "[config] lora.rnak is not a key; did you mean lora.r? (" +
                                             path + ", at /lora/rnak)");
  }
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

TEST(Resolve, ComputeDtypeWinners) {
  const auto nothing = [](RunConfig&) {};
  EXPECT_EQ(decided(nothing), ComputeDtype::kAuto);
  EXPECT_EQ(decided([](RunConfig& c) { c.training.fp16 = true; }), ComputeDtype::kFloat16);
  EXPECT_EQ(decided([](RunConfig& c) { c.training.bf16 = true; }), ComputeDtype::kBFloat16);
  EXPECT_EQ(decided([](RunConfig& c) {
              c.training.fp16 = true;
              c.compute_dtype = ComputeDtype::kFloat32;
            }),
            ComputeDtype::kFloat32);
  EXPECT_EQ(decided([](RunConfig& c) {
              c.training.fp16 = true;
              c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kBFloat16;
            }),
            ComputeDtype::kBFloat16);
  EXPECT_EQ(decided([](RunConfig& c) {
              c.training.bf16 = true;
              c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kAuto;
            }),
            ComputeDtype::kBFloat16);
  EXPECT_EQ(only_notice([](RunConfig& c) {
              c.training.fp16 = true;
              c.compute_dtype = ComputeDtype::kBFloat16;
            }),
            "fp16 is true, but the compute type bf16 wins: matrix products and gradients are bf16");
}

TEST(Resolve, RefusesContradictions) {
  struct Case {
    const char* part;
    std::function<void(RunConfig&)> change;
  };
  const Case cases[] = {
      {"model_name_or_path is empty", [](RunConfig& c) { c.model_name_or_path = ""; }},
      {"lora.r is 0, allowed: a whole number, 1 to 1024", [](RunConfig& c) { c.lora.r = 0; }},
      {"lora.enabled is false", [](RunConfig& c) { c.lora.enabled = false; }},
      {"data.dataset_name is empty", [](RunConfig& c) { c.data.dataset_name = ""; }},
      {"data.dataset_name and data.tokens.file are both set",
       [](RunConfig& c) { c.data.tokens.file = "t.safetensors"; }},
      {"data.tokens.eval names a tensor", [](RunConfig& c) { c.data.tokens.eval = "heldout"; }},
      {"data.validation_split is 1.5", [](RunConfig& c) { c.data.validation_split = 1.5; }},
      {"each make an evaluation set",
       [](RunConfig& c) {
         c.data.validation_split = 0.1;
         c.data.eval_dataset_name = "e.jsonl";
       }},
      {"there is no evaluation set",
       [](RunConfig& c) { c.training.evaluate.strategy = trainer::Strategy::kSteps; }},
      {"there is no evaluation set", [](RunConfig& c) { c.training.evaluate.on_start = true; }},
      {"allowed only where eval_strategy and save_strategy are the same",
       [](RunConfig& c) { c.training.save.load_best_model_at_end = true; }},
      {"save_steps is 500 and evaluation is every 7 steps",
       [](RunConfig& c) {
         c.data.validation_split = 0.1;
         c.training.evaluate.strategy = trainer::Strategy::kSteps;
         c.training.evaluate.steps = 7;
         c.training.save.load_best_model_at_end = true;
       }},
      {"max_steps is 0", [](RunConfig& c) { c.training.max_steps = 0; }},
      {"overwrite would delete what resume goes on from",
       [](RunConfig& c) {
         c.training.overwrite = true;
         c.training.resume = "auto";
       }},
      {"report_to holds \"none\" beside",
       [](RunConfig& c) {
         c.training.report_to = {"none", "tensorboard"};
       }},
      {"quantization.block_size is 96, allowed: a power of two",
       [](RunConfig& c) { c.quantization.four_bit.block_size = 96; }},
      {"fp16 and bf16 are both true",
       [](RunConfig& c) { c.training.fp16 = c.training.bf16 = true; }},
      {"bnb_4bit_compute_dtype is \"fp16\" and compute_dtype is \"bf16\"", [](RunConfig& c) {
         c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kFloat16;
         c.compute_dtype = ComputeDtype::kBFloat16;
       }}};
  for (const Case& refused : cases) {
    const std::string message = error_of(refused.change);
    EXPECT_NE(message.find(refused.part), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("[config] ")) << message;
  }
}

TEST(Resolve, AllowsWhatOnlyLooksLikeOne) {
  EXPECT_EQ(error_of([](RunConfig& c) {
              c.data.dataset_name = "";
              c.data.tokens.file = "t.safetensors";
              c.data.tokens.eval = "heldout";
              c.training.evaluate.strategy = trainer::Strategy::kEpoch;
              c.training.save.strategy = trainer::Strategy::kEpoch;
              c.training.save.load_best_model_at_end = true;
            }),
            "no error");
  EXPECT_EQ(error_of([](RunConfig& c) { c.data.validation_split = 100; }), "no error");
  EXPECT_EQ(error_of([](RunConfig& c) {  // eval_steps 0 means logging_steps
              c.data.validation_split = 0.5;
              c.training.evaluate.strategy = trainer::Strategy::kSteps;
              c.training.logging_steps = 250;
              c.training.save.load_best_model_at_end = true;
            }),
            "no error");
  EXPECT_EQ(error_of([](RunConfig& c) {
              c.compute_dtype = ComputeDtype::kFloat16;
              c.quantization.bnb_4bit_compute_dtype = ComputeDtype::kFloat16;
            }),
            "no error");
}

TEST(Resolve, SaysWhatDoesNotCount) {
  struct Case {
    const char* notice;
    std::function<void(RunConfig&)> change;
  };
  const Case cases[] = {
      {"0 notices", [](RunConfig& c) { c.training.max_steps = 5; }},
      {"0 notices", [](RunConfig& c) { c.quantization.load_in_4bit = false; }},
      {"0 notices", [](RunConfig& c) { c.training.schedule.warmup_steps = 3; }},
      {"max_steps is set: num_train_epochs does not count",
       [](RunConfig& c) {
         c.training.max_steps = 5;
         c.training.num_train_epochs = 2;
       }},
      {"lr_scheduler_type is constant: the warmup does not count; constant_with_warmup has one",
       [](RunConfig& c) {
         c.training.schedule.kind = trainer::ScheduleKind::kConstant;
         c.training.schedule.warmup_ratio = 0.03;
       }},
      {"warmup_steps is set: warmup_ratio does not count",
       [](RunConfig& c) {
         c.training.schedule.warmup_steps = 3;
         c.training.schedule.warmup_ratio = 0.03;
       }},
      {"warmup_steps is 5 of 5 steps: the full rate is never reached",
       [](RunConfig& c) {
         c.training.max_steps = 5;
         c.training.schedule.warmup_steps = 5;
       }},
      {"watchdog.action is roll_back, but save_strategy is no: without a checkpoint it stops",
       [](RunConfig& c) {
         c.training.watchdog.action = trainer::WatchdogAction::kRollBack;
         c.training.save.strategy = trainer::Strategy::kNo;
       }},
      {"load_in_4bit is false: the other settings of the 4-bit type do not count",
       [](RunConfig& c) {
         c.quantization.load_in_4bit = false;
         c.quantization.four_bit.block_size = 128;
       }}};
  for (const Case& said : cases) EXPECT_EQ(only_notice(said.change), said.notice);
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
  std::ifstream file(source);
  const std::string recipe((std::istreambuf_iterator<char>(file)), {});
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
