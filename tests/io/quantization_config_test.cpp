#include "io/quantization_config.h"

#include <nlohmann/json.hpp>

#include "io/safetensors.h"
#include "io/strict_json.h"
#include "tests/io/mutate.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

using Json = nlohmann::json;

QuantizationConfig parse(const std::string& text) {
  return QuantizationConfig::parse(Json::parse(text), "file");
}

/// quantization_config of a file of tests/fixtures/export, as its producer wrote it.
QuantizationConfig produced(const std::string& name) {
  const SafetensorsReader reader(fixture("export/" + name + ".safetensors"));
  return parse(reader.metadata().at("quantization_config"));
}

const std::string kUp = "model.layers.0.mlp.up_proj", kQ = "model.layers.1.self_attn.q_proj";

void expect_form(const std::optional<QuantizedForm>& form, PackedForm packed, int64_t bits,
                 int64_t group_size, InputForm inputs = InputForm::kPlain) {
  ASSERT_TRUE(form);
  EXPECT_EQ(form->form, packed);
  EXPECT_EQ(form->bits, bits);
  EXPECT_EQ(form->group_size, group_size);
  EXPECT_EQ(form->inputs, inputs);
}

TEST(QuantizationConfig, WhatEveryProducerWroteIsUnderstood) {
  expect_form(produced("gptq-w2").form_of(kUp), PackedForm::kGptq, 2, 64);
  expect_form(produced("gptq-w3").form_of(kUp), PackedForm::kGptq, 3, 128);
  expect_form(produced("gptq-w4-actorder").form_of(kUp), PackedForm::kGptq, 4, 128);
  expect_form(produced("gptq-w8").form_of(kUp), PackedForm::kGptq, 8, 128);
  expect_form(produced("gptqv2-w4-asym").form_of(kUp), PackedForm::kGptqV2, 4, 128);
  expect_form(produced("autoawq-gemm").form_of(kUp), PackedForm::kAwqGemm, 4, 128);
  expect_form(produced("gptqm-awq").form_of(kUp), PackedForm::kAwqGemm, 4, 128);
  expect_form(produced("bnb-nf4-dq").form_of(kUp), PackedForm::kBnbFourBit, 4, -1);
  expect_form(produced("ct-w4a16-gptq").form_of(kUp), PackedForm::kPackQuantized, 4, 128);
  expect_form(produced("ct-w4a16-asym").form_of(kUp), PackedForm::kPackQuantized, 4, 128);
  expect_form(produced("ct-w8a8-sq").form_of(kUp), PackedForm::kIntQuantized, 8, -1,
              InputForm::kInt8PerToken);
  expect_form(produced("ct-fp8").form_of(kUp), PackedForm::kFloatQuantized, 8, -1,
              InputForm::kFp8Static);
  const auto cache = produced("ct-fp8-dyn-kv8");
  expect_form(cache.form_of(kUp), PackedForm::kFloatQuantized, 8, -1, InputForm::kFp8PerToken);
  ASSERT_EQ(cache.notices().size(), 1u);
  EXPECT_NE(cache.notices()[0].find("kv_cache_scheme"), std::string::npos);
  EXPECT_FALSE(cache.form_of("lm_head"));
  EXPECT_EQ(cache.method(), "compressed-tensors");
}

TEST(QuantizationConfig, OldFilesOfAutoGptqAndAutoAwq) {
  const auto gptq = parse(R"({"bits": 4, "group_size": -1, "damp_percent": 0.01,
      "desc_act": false, "static_groups": false, "sym": true, "true_sequential": true,
      "model_name_or_path": null, "model_file_base_name": null})");
  EXPECT_EQ(gptq.method(), "gptq");
  expect_form(gptq.form_of(kUp), PackedForm::kGptq, 4, -1);
  const auto awq = parse(R"({"zero_point": true, "q_group_size": 64, "w_bit": 4,
      "version": "GEMM"})");
  EXPECT_EQ(awq.method(), "awq");
  expect_form(awq.form_of(kUp), PackedForm::kAwqGemm, 4, 64);
}

TEST(QuantizationConfig, GptqPatternsOverrideAndSkipInTheirOrder) {
  const auto config = parse(R"({"quant_method": "gptq", "bits": 4, "group_size": 128,
      "dynamic": {"-:.*o_proj": {}, "+:model\\.layers\\.1\\..*": {"bits": 8, "group_size": 32},
                  ".*down_proj": {"bits": 3}}})");
  expect_form(config.form_of(kUp), PackedForm::kGptq, 4, 128);
  expect_form(config.form_of(kQ), PackedForm::kGptq, 8, 32);
  expect_form(config.form_of("model.layers.0.mlp.down_proj"), PackedForm::kGptq, 3, 128);
  EXPECT_FALSE(config.form_of("model.layers.0.self_attn.o_proj"));
}

TEST(QuantizationConfig, CompressedGroupsAreFoundByNamePatternAndClass) {
  const auto config = parse(R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
      "ignore": ["lm_head", "re:.*layers\\.0\\.mlp\\.gate.*"],
      "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
                    "strategy": "group", "group_size": 64}},
        "group_1": {"targets": ["re:.*q_proj"], "weights": {"num_bits": 8, "type": "int",
                    "strategy": "channel"}},
        "group_2": {"targets": ["model.layers.1.self_attn.q_proj"], "format": "float-quantized",
                    "weights": {"num_bits": 8, "type": "float", "strategy": "channel"},
                    "input_activations": {"num_bits": 8, "type": "float", "strategy": "token",
                                          "dynamic": true, "symmetric": true}}}})");
  expect_form(config.form_of(kUp), PackedForm::kPackQuantized, 4, 64);
  expect_form(config.form_of("model.layers.0.self_attn.q_proj"), PackedForm::kPackQuantized, 8, -1);
  expect_form(config.form_of(kQ), PackedForm::kFloatQuantized, 8, -1, InputForm::kFp8PerToken);
  EXPECT_FALSE(config.form_of("model.layers.0.mlp.gate_proj"));
  EXPECT_FALSE(config.form_of("lm_head"));
  EXPECT_EQ(config.common_form().group_size, 64);
}

TEST(QuantizationConfig, BitsandbytesAndAwqSkipByAPartOfTheName) {
  const auto four = parse(R"({"quant_method": "bitsandbytes", "load_in_4bit": true,
      "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["lm_head", "q_proj"]})");
  EXPECT_FALSE(four.form_of(kQ));
  expect_form(four.form_of(kUp), PackedForm::kBnbFourBit, 4, -1);
  const auto eight = parse(R"({"quant_method": "bitsandbytes", "load_in_8bit": true})");
  expect_form(eight.form_of(kUp), PackedForm::kBnbInt8, 8, -1, InputForm::kInt8WithOutliers);
  EXPECT_EQ(eight.form_of(kUp)->outlier_threshold, 6.0);
  EXPECT_EQ(parse(R"({"quant_method": "bitsandbytes", "load_in_8bit": true,
                      "llm_int8_threshold": 0.0})")
                .common_form()
                .outlier_threshold,
            0.0);
  const auto awq = parse(R"({"quant_method": "awq", "bits": 4, "group_size": 128,
      "zero_point": true, "version": "gemm", "modules_to_not_convert": ["layers.1."]})");
  EXPECT_FALSE(awq.form_of(kQ));
  EXPECT_TRUE(awq.form_of(kUp));
}

TEST(QuantizationConfig, EveryFormHasAName) {
  EXPECT_EQ(describe({}), "GPTQ, 4 bits, groups of 128");
  EXPECT_EQ(describe({PackedForm::kGptqV2, 3, -1}), "GPTQ v2, 3 bits, a scale a row");
  EXPECT_EQ(describe({PackedForm::kAwqGemm}), "AWQ GEMM, 4 bits, groups of 128");
  EXPECT_EQ(describe({PackedForm::kIntQuantized, 8, -1, InputForm::kInt8PerToken}),
            "compressed-tensors, 8 bits, a scale a row, inputs int8 a token");
  EXPECT_EQ(describe({PackedForm::kFloatQuantized, 8, -1, InputForm::kFp8Static}),
            "compressed-tensors, FP8, inputs fp8, fixed scale");
  EXPECT_EQ(describe({PackedForm::kFloatQuantized, 8, -1, InputForm::kFp8PerToken}),
            "compressed-tensors, FP8, inputs fp8 a token");
  EXPECT_EQ(describe({PackedForm::kBnbFourBit}), "bitsandbytes, 4 bits");
  EXPECT_EQ(describe({PackedForm::kBnbInt8}), "bitsandbytes, LLM.int8");
}

constexpr const char* kGroups =
    R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups":
       {"g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int",
        "strategy": "group", "group_size": 64}}}})";

/// kGroups with one value set, by its JSON pointer.
std::string changed(const char* pointer, const Json& value) {
  Json json = Json::parse(kGroups);
  json[Json::json_pointer(pointer)] = value;
  return json.dump();
}

TEST(QuantizationConfig, WhatIsNotReadIsRefusedByKeyAndValue) {
  const auto refused = [](const std::string& text, const char* says) {
    EXPECT_MESSAGE(FormatError, parse(text), says);
  };
  refused("[]", "not a JSON object");
  refused("{}", "unknown method");
  refused(R"({"quant_method": "fp8"})", "'fp8'");
  refused(R"({"quant_method": "hqq"})", "gptq, awq, compressed-tensors and bitsandbytes are read");
  refused(R"({"quant_method": 3})", "a text is allowed");
  refused(R"({"quant_method": "gptq"})", "bits is missing");
  refused(R"({"quant_method": "gptq", "bits": 5})", "bits is '5', one of 2, 3, 4, 8 is allowed");
  refused(R"({"quant_method": "gptq", "bits": 4, "group_size": 0})", "group_size is '0'");
  refused(R"({"quant_method": "gptq", "bits": 4, "group_size": -2})", "group_size is '-2'");
  refused(R"({"quant_method": "gptq", "bits": 4, "group_size": 9999999})", "group_size");
  refused(R"({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"})", "marlin");
  refused(R"({"quant_method": "gptq", "bits": 4, "pack_dtype": "int16"})", "int16");
  refused(R"({"quant_method": "gptq", "bits": 4, "dynamic": []})", "an object of patterns");
  refused(R"({"quant_method": "gptq", "bits": 4, "dynamic": {"(": {}}})", "no regular expression");
  refused(R"({"quant_method": "gptq", "bits": 4, "dynamic": {"a": 3}})", "not a JSON object");
  refused(R"({"quant_method": "gptq", "bits": 4, "dynamic": {"a": {"bits": 7}}})", "bits is '7'");
  refused(R"({"quant_method": "awq", "bits": 8})", "bits is '8', one of 4");
  for (const char* version : {"gemv", "marlin", "ipex", "exllama", "llm-awq", "gemv_fast"}) {
    refused(fmt::format(R"({{"quant_method": "awq", "bits": 4, "version": "{}"}})", version),
            version);
  }
  refused(R"({"quant_method": "awq", "zero_point": false})", "zero_point");
  refused(R"({"quant_method": "awq", "modules_to_not_convert": 3})", "a list of names");
  refused(R"({"quant_method": "awq", "modules_to_not_convert": [3]})", "names");
  refused(R"({"quant_method": "awq", "dynamic": {"a": {}}})", "dynamic");
  refused(R"({"quant_method": "bitsandbytes"})", "neither or both");
  refused(R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": true})",
          "neither or both");
  refused(R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "x"})",
          "nf4 or fp4");
  refused(R"({"quant_method": "bitsandbytes", "load_in_8bit": true, "llm_int8_threshold": -1})",
          "0 or more");
  refused(R"({"quant_method": "compressed-tensors"})", "config_groups is missing");
  refused(changed("/config_groups", Json::object()), "config_groups is missing or empty");
  refused(changed("/quantization_status", "frozen"), "quantization_status");
  refused(changed("/sparsity_config", {{"format", "sparse-24-bitmask"}}), "sparsity_config");
  refused(changed("/transform_config", {{"config_groups", {{"a", 1}}}}), "transform_config");
  refused(changed("/ignore", 4), "a list of names");
  refused(changed("/ignore/0", 4), "names and re: patterns");
  refused(changed("/ignore/0", "re:["), "no regular expression");
  refused(changed("/config_groups/g/targets", "Linear"), "targets is no list");
  refused(changed("/config_groups/g/weights", nullptr), "has no weights");
  refused(changed("/config_groups/g/weights/type", "uint"), "int or float");
  refused(changed("/config_groups/g/weights/num_bits", 6), "num_bits is '6'");
  refused(changed("/config_groups/g/weights/strategy", "block"), "tensor, channel or group");
  refused(changed("/config_groups/g/weights/group_size", 0), "group_size is '0'");
  refused(changed("/format", "marlin-24"), "marlin-24");
  refused(changed("/format", "float-quantized"), "format is '\"float-quantized\"'");
  refused(changed("/config_groups/g/output_activations", {{"num_bits", 8}}), "output_activations");
  for (const auto& [key, value] : {std::pair<const char*, Json>{"strategy", "tensor"},
                                   {"symmetric", false},
                                   {"dynamic", "local"},
                                   {"num_bits", 4}}) {
    Json inputs = {{"num_bits", 8},
                   {"type", "int"},
                   {"strategy", "token"},
                   {"dynamic", true},
                   {"symmetric", true}};
    inputs[key] = value;
    refused(changed("/config_groups/g/input_activations", inputs), "is allowed");
  }
}

TEST(QuantizationConfig, APatternMadeToHangIsAnError) {
  Json json = Json::parse(R"({"quant_method": "gptq", "bits": 4})");
  json["dynamic"]["(a+)+$"] = Json::object();
  const auto config = QuantizationConfig::parse(json, "file");
  EXPECT_MESSAGE(FormatError, config.form_of(std::string(60, 'a') + "b"), "matching");
  json["dynamic"] = {{std::string(5000, 'a'), Json::object()}};
  EXPECT_MESSAGE(FormatError, QuantizationConfig::parse(json, "file"), "a pattern of 5000 bytes");
}

TEST(QuantizationConfig, IsFoundInConfigJsonOrBesideIt) {
  const TemporaryFolder folder;
  EXPECT_FALSE(find_quantization_config(folder.path(), ""));
  folder.put("quant_config.json", R"({"w_bit": 4, "q_group_size": 32, "version": "GEMM"})");
  EXPECT_EQ(find_quantization_config(folder.path(), "")->method(), "awq");
  folder.put("quantize_config.json", R"({"bits": 8, "desc_act": true, "group_size": 64})");
  EXPECT_EQ(find_quantization_config(folder.path(), "")->common_form().bits, 8);
  EXPECT_EQ(find_quantization_config(folder.path(), kGroups)->method(), "compressed-tensors");
  folder.put("quantize_config.json", "{");
  EXPECT_THROW(find_quantization_config(folder.path(), ""), FormatError);
}

TEST(QuantizationConfig, SurvivesDamage) {
  std::vector<std::string> good = {kGroups};
  for (const char* name : {"gptq-w4-sym", "autoawq-gemm", "ct-w8a8-sq", "bnb-nf4-dq"}) {
    good.push_back(SafetensorsReader(fixture(std::string("export/") + name + ".safetensors"))
                       .metadata()
                       .at("quantization_config"));
  }
  good.push_back(R"({"quant_method": "gptq", "bits": 4, "dynamic": {"+:a.*(b|c)[d-e]{2,3}":
                     {"bits": 8}}})");
  std::mt19937_64 random(5);
  int read = 0, refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    const std::string& text = good[random() % good.size()];
    try {
      const auto config =
          QuantizationConfig::parse(parse_strict_json(mutate(text, text.size(), random), "f"), "f");
      config.form_of(kUp);
      ++read;
    } catch (const FormatError& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(read, 200);
  EXPECT_GT(refused, 5'000);
}

}  // namespace
}  // namespace qlora::io
