#include "io/hf_config.h"

#include <nlohmann/json.hpp>

#include "io/strict_json.h"
#include "tests/io/mutate.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

using Json = nlohmann::json;

Json base() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 1000},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4}};
}

HfConfig parse(const Json& changes) {
  Json json = base();
  json.update(changes);
  return parse_hf_config(json.dump(), "config.json");
}

std::string refusal(const Json& changes) {
  return message_of<FormatError>([&] { parse(changes); });
}

#define EXPECT_REFUSED(changes, part)                                    \
  EXPECT_NE(refusal(Json::parse(changes)).find(part), std::string::npos) \
      << refusal(Json::parse(changes))

template <class T>
Json json_of(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

void expect_rope(const RopeParameters& rope, const Json& expected, const std::string& name) {
  const std::map<RopeType, std::string> names = {
      {RopeType::kDefault, "default"}, {RopeType::kLinear, "linear"},
      {RopeType::kDynamic, "dynamic"}, {RopeType::kLlama3, "llama3"},
      {RopeType::kYarn, "yarn"},       {RopeType::kLongrope, "longrope"}};
  const std::map<std::string, Json> ours = {
      {"rope_type", names.at(rope.type)},
      {"rope_theta", rope.theta},
      {"factor", rope.factor},
      {"original_max_position_embeddings", rope.original_max_position_embeddings},
      {"low_freq_factor", rope.low_freq_factor},
      {"high_freq_factor", rope.high_freq_factor},
      {"beta_fast", rope.beta_fast},
      {"beta_slow", rope.beta_slow},
      {"mscale", json_of(rope.mscale)},
      {"mscale_all_dim", json_of(rope.mscale_all_dim)},
      {"attention_factor", json_of(rope.attention_factor)},
      {"truncate", rope.truncate}};
  for (const auto& [key, value] : expected.items())
    EXPECT_EQ(ours.at(key), value) << name << " " << key;
}

void expect_config(const HfConfig& config, const Json& expected, const std::string& name) {
  const auto& eos = config.eos_token_ids;
  const std::map<std::string, Json> ours = {
      {"vocab_size", config.vocab_size},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_attention_heads", config.num_attention_heads},
      {"num_key_value_heads", config.num_key_value_heads},
      {"head_dim", config.head_dim},
      {"max_position_embeddings", config.max_position_embeddings},
      {"rms_norm_eps", config.rms_norm_eps},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"attention_bias", config.arch.qkv_bias && config.arch.output_bias},
      {"mlp_bias", config.arch.mlp_bias},
      {"hidden_act", config.arch.activation == Activation::kSilu ? "silu" : "gelu_pytorch_tanh"},
      {"initializer_range", config.initializer_range},
      {"bos_token_id", json_of(config.bos_token_id)},
      {"pad_token_id", json_of(config.pad_token_id)},
      {"eos_token_id", eos.empty()       ? Json()
                       : eos.size() == 1 ? Json(eos[0])
                                         : Json(eos)},
      {"dtype", config.torch_dtype.empty() ? Json() : Json(config.torch_dtype)}};
  for (const auto& [key, value] : expected.items()) {
    if (key == "rope_parameters") continue;
    EXPECT_EQ(ours.at(key), value) << name << " " << key;
  }
  expect_rope(config.rope, expected.at("rope_parameters"), name);
}

TEST(HfConfig, MeansWhatTransformersMakesOfIt) {
  const Json cases = parse_strict_json(read_file(fixture("hf_config/cases.json")), "cases.json");
  ASSERT_GE(cases.size(), 28u);
  for (const Json& one : cases) {
    const std::string name = one["name"];
    const HfConfig config = parse_hf_config(one["config"].dump(), name);
    expect_config(config, one["expected"], name);
    // What is written means the same again.
    expect_config(parse_hf_config(to_json(config).dump(), name), one["expected"],
                  name + ", written");
  }
}

TEST(HfConfig, WritesOldAndNewKeys) {
  const Json plain = to_json(parse({{"rope_theta", 5e5}, {"torch_dtype", "bfloat16"}}));
  EXPECT_EQ(plain["rope_theta"], 5e5);
  EXPECT_EQ(plain["rope_parameters"]["rope_theta"], 5e5);
  EXPECT_EQ(plain["rope_parameters"]["rope_type"], "default");
  EXPECT_TRUE(plain["rope_scaling"].is_null());
  EXPECT_EQ(plain["dtype"], "bfloat16");
  EXPECT_EQ(plain["torch_dtype"], "bfloat16");
  const Json scaled = to_json(parse({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}));
  EXPECT_EQ(scaled["rope_scaling"], scaled["rope_parameters"]);
}

TEST(HfConfig, KeepsTheQuantizationAsText) {
  const HfConfig config = parse({{"quantization_config", {{"quant_method", "gptq"}, {"bits", 4}}}});
  EXPECT_EQ(Json::parse(config.quantization_config)["quant_method"], "gptq");
  EXPECT_EQ(to_json(config)["quantization_config"]["bits"], 4);
  EXPECT_EQ(parse(Json::object()).quantization_config, "");
}

TEST(HfConfig, OneOfArchitectureAndModelTypeIsEnough) {
  EXPECT_EQ(parse({{"architectures", nullptr}}).architecture, "LlamaForCausalLM");
  EXPECT_EQ(parse({{"model_type", nullptr}}).model_type, "llama");
  EXPECT_EQ(parse({{"hidden_act", "swish"}}).arch.activation, Activation::kSilu);
  EXPECT_EQ(parse({{"torch_dtype", "torch.float16"}}).torch_dtype, "float16");
  EXPECT_EQ(parse({{"pad_token_id", -1}, {"bos_token_id", -1}, {"eos_token_id", -1}})
                .eos_token_ids.size(),
            0u);
}

TEST(HfConfig, UnknownArchitecturesAreRefusedWithTheList) {
  const std::string known =
      "; known are LlamaForCausalLM (llama), MistralForCausalLM (mistral), Qwen2ForCausalLM "
      "(qwen2), "
      "Qwen3ForCausalLM (qwen3), Qwen3MoeForCausalLM (qwen3_moe), Gemma2ForCausalLM (gemma2), "
      "Gemma3ForCausalLM (gemma3_text), Phi3ForCausalLM (phi3), SmolLM3ForCausalLM (smollm3), "
      "MixtralForCausalLM (mixtral), the text part of Gemma3ForConditionalGeneration (gemma3)";
  EXPECT_REFUSED(R"({"architectures": ["FalconForCausalLM"], "model_type": "falcon"})",
                 "architecture 'FalconForCausalLM' of model_type 'falcon' is not known" + known);
  EXPECT_REFUSED(R"({"architectures": ["MistralForCausalLM"]})",
                 "'MistralForCausalLM' of model_type 'llama' is not known");
  EXPECT_REFUSED(R"({"architectures": ["LlamaModel"]})",
                 "'LlamaModel' of model_type 'llama' is not known");
  EXPECT_REFUSED(R"({"model_type": "mistral"})", "is not known");
  EXPECT_REFUSED(R"({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3"})",
                 "is not known");  // no text_config
  EXPECT_REFUSED(R"({"architectures": null, "model_type": null})",
                 "architecture '' of model_type '' is not known");
  EXPECT_REFUSED(R"({"architectures": "LlamaForCausalLM"})",
                 "architectures is '\"LlamaForCausalLM\"', a list of one");
  EXPECT_REFUSED(R"({"architectures": ["A", "B"]})", "a list of one name");
  EXPECT_REFUSED(R"({"architectures": [1]})", "a list of one name");
  EXPECT_EQ(known_architectures().size(), 11U);
}

TEST(HfConfig, TextIsChecked) {
  EXPECT_MESSAGE(FormatError, parse_hf_config("[]", "c.json"), "c.json: not a JSON object");
  EXPECT_MESSAGE(FormatError, parse_hf_config("{", "c.json"), "c.json: not JSON");
  EXPECT_MESSAGE(FormatError, parse_hf_config(R"({"a":1,"a":2})", "c.json"),
                 "key 'a' stands twice");
  EXPECT_MESSAGE(IoError, read_hf_config("/nowhere/config.json"), "cannot be opened");
  const TemporaryFolder folder;
  EXPECT_EQ(read_hf_config(folder.put("config.json", base().dump())).vocab_size, 1000);
}

TEST(HfConfig, SizesAreNeededAndWhole) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads"}) {
    EXPECT_NE(
        refusal({{key, nullptr}}).find(fmt::format("{} is missing; a whole number is needed", key)),
        std::string::npos);
    for (const Json& value :
         {Json("64"), Json(64.5), Json(true), Json(Json::array()), Json(~uint64_t{0})}) {
      EXPECT_NE(refusal({{key, value}}).find(fmt::format("{} is ", key)), std::string::npos);
      EXPECT_NE(refusal({{key, value}}).find("a whole number is allowed"), std::string::npos);
    }
    for (const int64_t value : {int64_t{0}, int64_t{-1}, INT64_MAX, INT64_MIN}) {
      EXPECT_NE(refusal({{key, value}}).find(fmt::format("{} is {}, 1 to ", key, value)),
                std::string::npos)
          << refusal({{key, value}});
    }
  }
}

TEST(HfConfig, HeadsHaveToFit) {
  EXPECT_REFUSED(R"({"num_key_value_heads": 3})",
                 "num_key_value_heads is 3, a divisor of num_attention_heads (4)");
  EXPECT_REFUSED(R"({"num_key_value_heads": 8})", "num_key_value_heads is 8, 1 to 4 is allowed");
  EXPECT_REFUSED(R"({"num_key_value_heads": 0})", "num_key_value_heads is 0");
  EXPECT_REFUSED(R"({"num_attention_heads": 5})",
                 "hidden_size is 64, without head_dim a multiple of");
  EXPECT_REFUSED(R"({"head_dim": 7})", "head_dim is 7, an even number from 2 to 65536");
  EXPECT_REFUSED(R"({"head_dim": 0})", "head_dim is 0");
  EXPECT_REFUSED(R"({"head_dim": -2})", "head_dim is -2");
  EXPECT_REFUSED(R"({"head_dim": 131072})", "head_dim is 131072");
  EXPECT_NO_THROW(
      parse({{"num_attention_heads", 5}, {"head_dim", 12}, {"num_key_value_heads", 1}}));
}

TEST(HfConfig, OtherFieldsAreChecked) {
  EXPECT_REFUSED(R"({"max_position_embeddings": 0})",
                 "max_position_embeddings is 0, 1 to 2147483647");
  EXPECT_REFUSED(R"({"rms_norm_eps": 0})", "rms_norm_eps is 0, above 0 up to 1");
  EXPECT_REFUSED(R"({"rms_norm_eps": "1e-5"})", "rms_norm_eps is '\"1e-5\"', a number is allowed");
  EXPECT_REFUSED(R"({"initializer_range": -0.1})", "initializer_range is -0.1, 0 to 1");
  EXPECT_REFUSED(R"({"hidden_act": "gelu"})",
                 "hidden_act is 'gelu', silu and gelu_pytorch_tanh are allowed");
  EXPECT_REFUSED(R"({"hidden_act": 1})", "hidden_act is '1', a text is allowed");
  EXPECT_REFUSED(R"({"tie_word_embeddings": 1})",
                 "tie_word_embeddings is '1', true or false is allowed");
  EXPECT_REFUSED(R"({"bos_token_id": 1000})",
                 "bos_token_id is 1000, below vocab_size (1000) is allowed");
  EXPECT_REFUSED(R"({"pad_token_id": 5000})", "pad_token_id is 5000, below vocab_size");
  EXPECT_REFUSED(R"({"eos_token_id": [2, 1000]})", "eos_token_id is 1000, below vocab_size");
  EXPECT_REFUSED(R"({"eos_token_id": [2, -1]})", "eos_token_id is '[2,-1]', a list of ids");
  EXPECT_REFUSED(R"({"eos_token_id": "2"})", "a whole number is allowed");
  EXPECT_REFUSED(R"({"partial_rotary_factor": 0.5})",
                 "partial_rotary_factor is 0.5, but the architecture LlamaForCausalLM");
}

TEST(HfConfig, RopeIsChecked) {
  const auto scaling = [](const std::string& text) { return R"({"rope_scaling": )" + text + "}"; };
  EXPECT_REFUSED(scaling(R"({"type": "xpos"})"),
                 "config.json: rope_scaling: rope type 'xpos' is not known; known are default, "
                 "linear, dynamic, "
                 "llama3, yarn, longrope");
  EXPECT_REFUSED(scaling(R"({"type": "longrope"})"), "short_factor is missing");
  EXPECT_REFUSED(scaling("[1]"), "rope_scaling: not a JSON object");
  EXPECT_REFUSED(scaling(R"({"type": 1})"), "type is '1', a text is allowed");
  EXPECT_REFUSED(scaling(R"({"type": "linear"})"), "factor is missing; a number is needed");
  EXPECT_REFUSED(scaling(R"({"type": "dynamic"})"), "factor is missing");
  EXPECT_REFUSED(scaling(R"({"type": "llama3", "low_freq_factor": 1, "high_freq_factor": 4})"),
                 "factor is missing");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "original_max_position_embeddings": 2048})"),
                 "rope_scaling: factor is missing; a number is needed, or null for");
  EXPECT_REFUSED(scaling(R"({"type": "linear", "factor": "2"})"), "factor is '\"2\"', a number");
  EXPECT_REFUSED(scaling(R"({"type": "linear", "factor": 0.5})"),
                 "rope factor is 0.5, 1 to 1e12 is allowed");
  EXPECT_REFUSED(scaling(R"({"type": "llama3", "factor": 8, "low_freq_factor": 1})"),
                 "high_freq_factor is missing");
  EXPECT_REFUSED(scaling(R"({"type": "llama3", "factor": 8, "high_freq_factor": 4})"),
                 "low_freq_factor is missing");
  EXPECT_REFUSED(
      scaling(R"({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4})"),
      "rope high_freq_factor is 4, above low_freq_factor");
  EXPECT_REFUSED(
      scaling(R"({"type": "llama3", "factor": 8, "low_freq_factor": 0, "high_freq_factor": 4})"),
      "rope low_freq_factor is 0, above 0");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "original_max_position_embeddings": 0})"),
                 "original_max_position_embeddings is 0, 1 or more");
  EXPECT_REFUSED(
      scaling(R"({"type": "yarn", "factor": 2, "original_max_position_embeddings": 4294967296})"),
      "rope original_max_position_embeddings is 4294967296, 1 to 2147483647");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2})"),
                 "rope beta_fast is 1");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "beta_slow": -1})"),
                 "rope beta_slow is -1");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "mscale": -1})"), "rope mscale is -1");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "mscale_all_dim": -1})"),
                 "rope mscale_all_dim is -1");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "attention_factor": -1})"),
                 "rope attention_factor is -1");
  EXPECT_REFUSED(scaling(R"({"type": "yarn", "factor": 2, "truncate": 1})"),
                 "truncate is '1', true or false");
  EXPECT_REFUSED(
      scaling(R"({"full_attention": {"rope_type": "default"}})"),
      "'full_attention' holds parameters of its own; rotary parameters by layer type are not read");
  EXPECT_REFUSED(R"({"rope_theta": 1})", "rope theta is 1, above 1, up to 1e12");
  EXPECT_REFUSED(R"({"rope_theta": -5})", "rope theta is -5");
  EXPECT_REFUSED(R"({"rope_parameters": {"partial_rotary_factor": 2}})",
                 "rope partial_rotary_factor is 2");
  EXPECT_REFUSED(R"({"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}})",
                 "with dynamic rope scaling");
  // yarn with a factor that is null: the ratio of the two lengths
  EXPECT_EQ(
      parse(
          Json::parse(
              R"({"max_position_embeddings": 8192, "rope_scaling": {"type": "yarn", "factor": null,
                                  "original_max_position_embeddings": 2048}})"))
          .rope.factor,
      4.0);
}

TEST(HfConfig, SurvivesDamage) {
  const Json cases = parse_strict_json(read_file(fixture("hf_config/cases.json")), "cases.json");
  std::mt19937_64 random(6);
  int read = 0;
  for (int i = 0; i < 6'000; ++i) {
    const std::string good = cases[static_cast<size_t>(i) % cases.size()]["config"].dump();
    try {
      to_json(parse_hf_config(mutate(good, good.size(), random), "config.json"));
      ++read;
    } catch (const FormatError& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(read, 100);
}

}  // namespace
}  // namespace qlora::io
