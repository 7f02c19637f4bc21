// What a run on a grid refuses, and what stops it.
#include <filesystem>

#include "tests/cli/qat_fixture.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

TEST_F(QatProgram, AResumedRunHasToRoundAlike) {
  write_config();
  ASSERT_EQ(train().exit_code, 0);
  fs::remove(folder_ / "out/adapter_model.safetensors");
  expect_refused(
      train({"--resume", "auto", "--set", "qat.symmetric=false", "--set", "qat.scheme=int4-gptq"}),
      {"qat", "the checkpoint was made with"});
}

TEST_F(QatProgram, AScaleThatFp16DoesNotHoldIsToldWithItsLayer) {
  write_tiny_checkpoint(folder_ / "large", {.weight_scale = 1e6});
  config_["model_name_or_path"] = path("large");
  write_config();
  expect_refused(train(), {"[qat] model.layers.0.", "not finite in the grid's type"});
}

TEST_F(QatProgram, WhatNoFormatHoldsIsRefusedBeforeTraining) {
  const std::vector<std::pair<nlohmann::ordered_json, std::vector<std::string>>> refused = {
      {{{"scheme", "int4-awq"}, {"bits", 3}}, {"rtn in the format awq at 3 bits", "not legal"}},
      {{{"scheme", "int4-awq"}, {"symmetric", true}}, {"symmetric", "not legal"}},
      {{{"scheme", "int4-awq"}, {"group_size", 128}}, {"group_size 128 does not divide", "64"}},
      {{{"scheme", "fp8"}, {"bits", 4}}, {"bits is 4", "scheme fp8 has 8 bits a weight"}},
      {{{"scheme", "int8"}, {"bits", 4}}, {"bits is 4", "scheme int8 has 8 bits a weight"}},
      {{{"scheme", "int8"}, {"symmetric", false}}, {"symmetric is false", "rows of scheme int8"}},
      {{{"scheme", "int8"}, {"group_size", 32}}, {"group_size is 32", "scheme int8 has one scale"}},
      {{{"scheme", "fp8"}, {"scales", "learned"}}, {"scales is learned", "fp8"}},
      {{{"scheme", "int4-awq"}, {"activations", "int8"}}, {"activations is int8", "allowed: none"}},
      {{{"scheme", "int8"}, {"activations", "fp8"}}, {"activations is fp8", "int8_static"}},
      {{{"scheme", "int4-awq"}, {"merge_base", "auto"}}, {"merge_base is auto", "nf4, original"}},
      {{{"scheme", "int4-awq"}, {"merge_base", "original"}}, {"merge_base is original", "true"}},
      {{{"scheme", "export"}, {"bits", 4}}, {"scheme is export", "set them there"}},
      {{{"scheme", "int4-awq"}, {"start_step", 12}}, {"start_step is 12", "12 steps"}},
      {{{"scheme", "int4-awq"}, {"skip_modules", {"nothing"}}}, {"nothing", "skip_modules"}},
      {{{"scheme", "int4-awq"}, {"scales", "learned"}, {"refresh_steps", 2}},
       {"refresh_steps is 2", "learned"}},
      {{{"scheme", "int4-awq"}, {"skip_modules", {".*"}}}, {"leaves no linear", "to round"}},
      {{{"scheme", "int4-gptq"}, {"grid_from", path("nowhere")}},
       {"grid_from is", "nowhere", "no folder here"}}};
  for (const auto& [section, words] : refused) {
    config_["qat"] = section;
    expect_train_refused(words);
  }
  config_["quantization"] = {{"load_in_4bit", false}};
  config_["qat"] = {
      {"scheme", "int4-gptq"}, {"merge_base", "original"}, {"start_from", path("nowhere")}};
  expect_train_refused({"start_from is", "nowhere", "no folder here"});
}

TEST_F(QatProgram, WhatTheRestOfTheConfigurationForbidsIsRefused) {
  config_["lora"]["lora_dropout"] = 0.1;
  expect_train_refused({"lora_dropout is 0.1", "set it to 0"});
  config_["lora"]["lora_dropout"] = 0.0;
  config_["qat"]["scales"] = "learned";
  config_["weight_decay"] = 0.1;
  expect_train_refused({"weight_decay is 0.1", "learned scales"});
  config_["weight_decay"] = 0.0;
  config_["qat"]["start_step"] = 2;
  config_["load_best_model_at_end"] = true;
  config_["save_steps"] = 12;
  expect_train_refused({"load_best_model_at_end", "qat.start_step 2"});
  config_.erase("load_best_model_at_end");
  config_["qat"] = {{"scheme", "export"}};
  config_["export"] = {{"quantization_type", "rtn"}, {"format", "gguf"}};
  expect_train_refused({"scheme is export", "gguf"});
  config_["export"] = {{"quantization_type", "gptq"}, {"group_size", 32}, {"desc_act", true}};
  expect_train_refused({"export.desc_act is true", "leave it out"});
}

TEST_F(QatProgram, ABaseThatIsQuantizedAlreadyIsRefused) {
  const ProgramResult solved =
      qlora({"export", "--model-path", path("model"), "--dataset-name", path("train.jsonl"),
             "--quantization-type", "rtn", "--group-size", "32", "--output-dir", path("packed")});
  ASSERT_EQ(solved.exit_code, 0) << solved.err;
  config_["model_name_or_path"] = path("packed");
  expect_train_refused({"quantized already", "GPTQ", "name the checkpoint that it was made from"});
}

TEST_F(QatProgram, ScalesThatLeaveTheirRangeStopTheRunWithTheLayersName) {
  config_["qat"] = {{"scheme", "int4-gptq"}, {"group_size", 32}, {"scales", "learned"}};
  config_["learning_rate"] = 2.0;  // factors start at 1
  config_["max_grad_norm"] = 0;
  write_config();
  expect_refused(train(), {"learned scales of model.layers.", "allowed positive and finite"});
}

}  // namespace
}  // namespace qlora::testing
