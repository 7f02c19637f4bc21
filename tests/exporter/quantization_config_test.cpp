#include "exporter/quantization_config.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "io/safetensors.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;
using Q = QuantizationType;
using nlohmann::json;

io::HfConfig small(bool tied = true) {
  io::HfConfig c;
  c.architecture = "LlamaForCausalLM";
  c.model_type = "llama";
  c.vocab_size = 512;
  c.hidden_size = 256;
  c.intermediate_size = 512;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 64;
  c.max_position_embeddings = 512;
  c.tie_word_embeddings = tied;
  return c;
}

json config_of(const GridOptions& options, const QuantizationFacts& facts = {}, bool tied = true) {
  return quantization_config(preflight(small(tied), options), facts);
}

/// What the producer of a fixture wrote.
json fixture(const std::string& name) {
  const io::SafetensorsReader file(QLORA_SOURCE_DIR "/tests/fixtures/export/" + name +
                                   ".safetensors");
  return json::parse(file.metadata().at("quantization_config"));
}

/// Every key of `ours` that the producer wrote too has its value, but for `except`.
void expect_equal_where_both(const json& ours, const json& theirs,
                             const std::set<std::string>& except, const std::string& where) {
  for (const auto& [key, value] : ours.items()) {
    if (!theirs.contains(key) || except.contains(key)) continue;
    if (value.is_object() && theirs[key].is_object()) {
      expect_equal_where_both(value, theirs[key], except, where + "." + key);
    } else {
      EXPECT_EQ(value, theirs[key]) << where << "." << key;
    }
  }
}

void expect_keys(const json& ours, const std::vector<std::string>& keys) {
  for (const std::string& key : keys) EXPECT_TRUE(ours.contains(key)) << key;
}

TEST(QuantizationConfig, GptqIsWhatGptqModelWrites) {
  const std::set<std::string> except = {"quantizer", "damp_percent", "program"};
  struct Case {
    const char* fixture;
    GridOptions grid;
    bool desc_act;
  };
  const Case kCases[] = {
      {"gptq-w4-sym", {.type = Q::kGptq, .group_size = GroupSize::k128}, false},
      {"gptq-w4-asym",
       {.type = Q::kGptq, .group_size = GroupSize::k128, .symmetric = false},
       false},
      {"gptq-w4-actorder", {.type = Q::kGptq, .group_size = GroupSize::k128}, true},
      {"gptq-w8", {.type = Q::kGptq, .bits = 8, .group_size = GroupSize::k128}, false},
      {"gptq-w3",
       {.type = Q::kGptq, .bits = 3, .group_size = GroupSize::k128, .symmetric = false},
       false},
      {"gptqv2-w4-asym",
       {.type = Q::kGptq, .format = F::kGptqV2, .group_size = GroupSize::k128, .symmetric = false},
       false}};
  for (const Case& c : kCases) {
    QuantizationFacts facts;
    facts.gptq.desc_act = c.desc_act;
    facts.gptq.act_group_aware = !c.desc_act;
    const json ours = config_of(c.grid, facts);
    expect_keys(ours, {"quant_method", "bits", "group_size", "desc_act", "sym", "checkpoint_format",
                       "lm_head", "pack_dtype", "meta"});
    expect_equal_where_both(ours, fixture(c.fixture), except, c.fixture);
    EXPECT_FALSE(ours.contains("dynamic"));
  }
}

TEST(QuantizationConfig, AsymmetricV1SaysThatNoZeroWraps) {
  const auto quantizers = [](const GridOptions& grid) {
    return config_of(grid)["meta"]["quantizer"];
  };
  EXPECT_EQ(quantizers({.type = Q::kGptq}), json({"qlora:0.1.0"}));
  EXPECT_EQ(quantizers({.type = Q::kGptq, .symmetric = false}),
            json({"qlora:0.1.0", "gptqmodel:0.9.0"}));
  EXPECT_EQ(quantizers({.type = Q::kGptq, .format = F::kGptqV2, .symmetric = false}),
            json({"qlora:0.1.0"}));
}

TEST(QuantizationConfig, GptqNamesModulesThatDiffer) {
  const json ours = config_of({.type = Q::kGptq,
                               .bits_pattern = {{"0.mlp.down_proj", 8}},
                               .skip_modules = {"layers.1.self_attn.o_proj"}},
                              {}, false);
  EXPECT_EQ(ours["dynamic"], json::parse(R"({
      "+:^model\\.layers\\.0\\.mlp\\.down_proj$": {"bits": 8, "group_size": 128},
      "-:^model\\.layers\\.1\\.self_attn\\.o_proj$": {}})"));
  EXPECT_EQ(ours["lm_head"], false);
  EXPECT_EQ(config_of({.type = Q::kGptq, .quantize_lm_head = true}, {}, false)["lm_head"], true);
}

TEST(QuantizationConfig, AwqIsWhatAutoAwqWrites) {
  const json ours = config_of({.group_size = GroupSize::k128});
  EXPECT_EQ(ours, fixture("autoawq-gemm"));
  EXPECT_EQ(config_of({.group_size = GroupSize::k128}, {}, false), ours);
  EXPECT_EQ(config_of({.skip_modules = {"0.mlp.down_proj"}})["modules_to_not_convert"],
            json({"model.layers.0.mlp.down_proj"}));
}

TEST(QuantizationConfig, CompressedTensorsIsWhatLlmCompressorWrites) {
  const std::set<std::string> except = {"version", "actorder", "observer"};
  struct Case {
    const char* fixture;
    GridOptions grid;
    bool is_static;
  };
  const Case kCases[] = {
      {"ct-w4a16-gptq",
       {.type = Q::kGptq, .format = F::kCompressedTensors, .group_size = GroupSize::k128},
       false},
      {"ct-w8a8-sq", {.type = Q::kSmoothquant}, false},
      {"ct-fp8", {.type = Q::kFp8, .static_fp8 = true}, true},
      {"ct-fp8-dyn-kv8", {.type = Q::kFp8}, false}};
  for (const Case& c : kCases) {
    const json ours = config_of(c.grid, {.has_static_input_scales = c.is_static});
    json theirs = fixture(c.fixture);
    theirs.erase("kv_cache_scheme");  // one of them has FP8 keys and values
    expect_keys(ours, {"quant_method", "format", "config_groups", "ignore", "quantization_status"});
    expect_keys(ours["config_groups"]["group_0"], {"targets", "weights", "input_activations"});
    expect_equal_where_both(ours, theirs, except, c.fixture);
  }
}

TEST(QuantizationConfig, CompressedTensorsGroupsModulesThatDiffer) {
  const json ours = config_of({.type = Q::kGptq,
                               .format = F::kCompressedTensors,
                               .bits_pattern = {{"down_proj", 8}},
                               .skip_modules = {"0.self_attn.o_proj"}},
                              {}, false);
  EXPECT_EQ(ours["config_groups"].size(), 2u);
  const json& other = ours["config_groups"]["group_1"];
  EXPECT_EQ(other["targets"],
            json({"model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"}));
  EXPECT_EQ(other["weights"]["num_bits"], 8);
  EXPECT_EQ(ours["ignore"], json({"model.layers.0.self_attn.o_proj", "lm_head"}));
  const json rows = config_of({.type = Q::kRtn,
                               .format = F::kCompressedTensors,
                               .group_size = GroupSize::kPerRow,
                               .loader = Loader::kTransformers});
  EXPECT_EQ(rows["config_groups"]["group_0"]["weights"]["strategy"], "channel");
  EXPECT_EQ(rows["config_groups"]["group_0"]["weights"]["group_size"], nullptr);
}

TEST(QuantizationConfig, Nf4IsWhatBitsandbytesWrites) {
  const GridOptions nf4{.type = Q::kRtn, .format = F::kNf4};
  EXPECT_EQ(config_of(nf4, {.compute_dtype = "float32"}), fixture("bnb-nf4-dq"));
  EXPECT_EQ(config_of(nf4, {.double_quant = false, .compute_dtype = "float32"}),
            fixture("bnb-nf4"));
}

TEST(QuantizationConfig, SixteenBitsHaveNone) {
  EXPECT_TRUE(config_of({.type = Q::kNone}).is_null());
  EXPECT_THROW(config_of({.type = Q::kNone, .format = F::kGguf}), ValueError);
}

}  // namespace
}  // namespace qlora::exporter
