#include "io/family.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "io/hf_rope.h"
#include "io/strict_json.h"
#include "io/tensor_layout.h"
#include "tests/io/mutate.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

using Json = nlohmann::json;

Json cases() {
  return parse_strict_json(read_file(fixture("hf_config/families.json")), "families.json");
}

template <class T>
Json json_of(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

void expect_facts(const HfConfig& c, const Json& want, const std::string& name) {
  const auto& eos = c.eos_token_ids;
  const std::map<std::string, Json> ours = {
      {"vocab_size", c.vocab_size},
      {"hidden_size", c.hidden_size},
      {"intermediate_size", c.intermediate_size},
      {"num_hidden_layers", c.num_hidden_layers},
      {"num_attention_heads", c.num_attention_heads},
      {"num_key_value_heads", c.num_key_value_heads},
      {"head_dim", c.head_dim},
      {"max_position_embeddings", c.max_position_embeddings},
      {"rms_norm_eps", c.rms_norm_eps},
      {"tie_word_embeddings", c.tie_word_embeddings},
      {"bos_token_id", json_of(c.bos_token_id)},
      {"pad_token_id", json_of(c.pad_token_id)},
      {"eos_token_id", eos.empty()       ? Json()
                       : eos.size() == 1 ? Json(eos[0])
                                         : Json(eos)},
      {"activation", c.arch.activation == Activation::kSilu ? "silu" : "gelu_pytorch_tanh"},
      {"attention_softcap", c.arch.attention_softcap},
      {"logit_softcap", c.arch.logit_softcap},
      {"local_theta", c.local_rope ? Json(c.local_rope->theta) : Json()},
      {"experts", {c.arch.experts.count, c.arch.experts.used}}};
  for (const auto& [key, value] : ours) EXPECT_EQ(value, want.at(key)) << name << " " << key;
  EXPECT_NEAR(c.query_scale(), 1 / std::sqrt(want.at("query_scalar").get<double>()), 1e-12) << name;
  EXPECT_EQ(c.rope.theta, want["rope"]["rope_theta"].get<double>()) << name;
  const Json& rope = want["rope"];
  EXPECT_EQ(rope_to_json(c.rope)["rope_type"], rope["rope_type"]) << name;
  EXPECT_EQ(c.rope.partial_rotary_factor, rope.value("partial_rotary_factor", 1.0)) << name;
  if (c.rope.type == RopeType::kLongrope) {
    EXPECT_EQ(c.rope.original_max_position_embeddings, rope["original_max_position_embeddings"]);
    EXPECT_EQ(Json(c.rope.long_factor), rope["long_factor"]);
  }
  for (int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const auto n = static_cast<size_t>(i);
    EXPECT_EQ(c.block(i).sliding_window, want["windows"][n].get<int64_t>()) << name << " " << i;
    EXPECT_EQ(c.block(i).rope != RopeUse::kNone, want["turns"][n].get<bool>()) << name << " " << i;
    if (c.local_rope) {
      EXPECT_EQ(c.block(i).rope == RopeUse::kLocal, want["windows"][n] != 0) << name << " " << i;
    }
  }
}

TEST(Family, MeansWhatTransformersMakesOfIt) {
  const Json all = cases();
  ASSERT_GE(all.size(), 24U);
  for (const Json& one : all) {
    const std::string name = one["name"];
    const HfConfig config = parse_hf_config(one["config"].dump(), name);
    expect_facts(config, one["expected"], name);
    // What is written means the same again.
    expect_facts(parse_hf_config(to_json(config).dump(), name), one["expected"],
                 name + ", written");
  }
}

std::string refusal(const std::string& name, const std::string& changes) {
  for (const Json& one : cases()) {
    if (one["name"] != name) continue;
    Json config = one["config"];
    config.update(Json::parse(changes));
    return message_of<FormatError>([&] { parse_hf_config(config.dump(), "c.json"); });
  }
  return "no such case";
}

#define EXPECT_REFUSED(name, changes, part) \
  EXPECT_NE(refusal(name, changes).find(part), std::string::npos) << refusal(name, changes)

TEST(Family, WhatIsNotComputedIsRefused) {
  EXPECT_REFUSED("gemma2, nothing", R"({"hidden_activation": "relu"})",
                 "hidden_activation is 'relu', silu and gelu_pytorch_tanh are allowed");
  EXPECT_REFUSED("qwen3, nothing", R"({"hidden_act": "gelu"})", "hidden_act is 'gelu', silu and");
  EXPECT_REFUSED("gemma3, nothing", R"({"use_bidirectional_attention": true})",
                 "use_bidirectional_attention is 'true', that it is off");
  EXPECT_REFUSED("mixtral, nothing", R"({"router_jitter_noise": 0.1})",
                 "router_jitter_noise is '0.1', that it is off");
  EXPECT_REFUSED("phi3, nothing", R"({"resid_pdrop": 0.1})", "resid_pdrop is '0.1'");
  EXPECT_REFUSED("phi3, nothing", R"({"rope_scaling": {"type": "linear", "factor": 2}})",
                 "Phi-3 is computed with the rope types default and longrope");
  EXPECT_REFUSED("mistral, small", R"({"partial_rotary_factor": 0.5})",
                 "partial_rotary_factor is 0.5, but the architecture MistralForCausalLM rotates");
  EXPECT_REFUSED("qwen2, nothing", R"({"layer_types": ["full_attention"]})",
                 "a list of 32 names is allowed");
  EXPECT_REFUSED("gemma3, new keys",
                 R"({"layer_types": ["full_attention", "linear_attention", "full_attention"]})",
                 "layer_types is '\"linear_attention\"', full_attention or sliding_attention");
}

TEST(Family, ValuesAreChecked) {
  EXPECT_REFUSED("mistral, small", R"({"sliding_window": 0})", "sliding_window is 0, 1 to ");
  EXPECT_REFUSED("mistral, small", R"({"sliding_window": "9"})", "a whole number is allowed");
  EXPECT_REFUSED("gemma2, nothing", R"({"attn_logit_softcapping": 0})",
                 "attn_logit_softcapping is 0, above 0");
  EXPECT_REFUSED("gemma2, nothing", R"({"final_logit_softcapping": -1})",
                 "final_logit_softcapping is -1, above 0");
  EXPECT_REFUSED("gemma2, nothing", R"({"query_pre_attn_scalar": 0})",
                 "query_pre_attn_scalar is 0, above 0");
  EXPECT_REFUSED("gemma3, old keys", R"({"sliding_window_pattern": 0})",
                 "sliding_window_pattern is 0, 1 to ");
  EXPECT_REFUSED("gemma3, nothing", R"({"rope_parameters": {"local": {}}})",
                 "'local' is no layer type");
  EXPECT_REFUSED("gemma3, the text part of a sparse multimodal file", R"({"text_config": 3})",
                 "text_config is '3', an object is allowed");
  EXPECT_REFUSED("smollm3, a list", R"({"no_rope_layers": [1, 0]})", "a list of 5 numbers");
  EXPECT_REFUSED("smollm3, a list", R"({"no_rope_layers": [1, 0, 1, 1, 2]})",
                 "no_rope_layers is '2', 0 or 1");
  EXPECT_REFUSED("smollm3, nothing", R"({"no_rope_layer_interval": 0})",
                 "no_rope_layer_interval is 0, 1 to ");
  EXPECT_REFUSED("qwen3_moe, sparse", R"({"decoder_sparse_step": 0})",
                 "decoder_sparse_step is 0, 1 to 5");
  EXPECT_REFUSED("qwen3_moe, sparse", R"({"mlp_only_layers": [5]})",
                 "mlp_only_layers is '5', a block below 5");
  EXPECT_REFUSED("qwen3_moe, sparse", R"({"mlp_only_layers": 1})", "a list of blocks");
  EXPECT_REFUSED("mixtral, small", R"({"num_experts_per_tok": 4})",
                 "num_experts_per_tok is 4, 1 to 3 is allowed");
  EXPECT_REFUSED("mixtral, small", R"({"num_local_experts": 0})", "number of experts is 0");
  EXPECT_REFUSED("qwen3_moe, sparse", R"({"moe_intermediate_size": 0})",
                 "intermediate size of an expert is 0");
}

TEST(Family, LongropeIsChecked) {
  const auto scaling = [](const std::string& text) {
    return R"({"rope_scaling": {"type": "longrope", )" + text + "}}";
  };
  const std::string eight = "[1, 1, 1, 1, 1, 1, 1, 1]";
  EXPECT_REFUSED("phi3, longrope", scaling(R"("short_factor": [1])"),
                 "long_factor is missing; a list of numbers is needed");
  EXPECT_REFUSED("phi3, longrope", scaling(R"("short_factor": 1, "long_factor": [1])"),
                 "short_factor is '1', a list of numbers");
  EXPECT_REFUSED("phi3, longrope", scaling(R"("short_factor": ["a"], "long_factor": [1])"),
                 "short_factor is '\"a\"', a number");
  EXPECT_REFUSED("phi3, longrope", scaling(R"("short_factor": [1], "long_factor": )" + eight),
                 "rope short_factor holds 1 numbers, 8 are needed");
  EXPECT_REFUSED("phi3, longrope",
                 scaling(R"("short_factor": [1, 1, 1, 1, 1, 1, 1, 0], "long_factor": )" + eight),
                 "short_factor or long_factor is 0, above 0");
  EXPECT_REFUSED("phi3, longrope", R"({"original_max_position_embeddings": 1})",
                 "2 or more with longrope");
  EXPECT_REFUSED("phi3, part of each head", R"({"partial_rotary_factor": 0.2})",
                 "makes 3 of 16 dimensions of a head rotate; an even number is allowed");
}

TEST(Family, SurvivesDamage) {
  const Json all = cases();
  std::mt19937_64 random(8);
  int read = 0;
  for (int i = 0; i < 4'000; ++i) {
    const std::string good = all[static_cast<size_t>(i) % all.size()]["config"].dump();
    try {
      const HfConfig config = parse_hf_config(mutate(good, good.size(), random), "config.json");
      to_json(config);
      if (config.num_hidden_layers < 100 && config.arch.experts.count < 1000) model_tensors(config);
      ++read;
    } catch (const FormatError& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
  EXPECT_GT(read, 100);
}

}  // namespace
}  // namespace qlora::io
