#include "io/gguf_family.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/gguf_config.h"
#include "tests/io/gguf_builder.h"

namespace qlora::io {
namespace {

using Json = nlohmann::json;

HfConfig config_of(const char* model_type, const Json& changes = Json::object()) {
  Json json = {{"model_type", model_type},
               {"vocab_size", 100},
               {"hidden_size", 64},
               {"intermediate_size", 96},
               {"num_hidden_layers", 6},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"head_dim", 16},
               {"query_pre_attn_scalar", 16},
               {"bos_token_id", 1},
               {"eos_token_id", 2},
               {"pad_token_id", 0},
               {"max_position_embeddings", 4096}};
  json.update(changes);
  return parse_hf_config(json.dump(), "config.json");
}

TEST(GgufFamily, NamesThoseThatLlamaCppHas) {
  for (const auto& [model_type, name] : {std::pair{"llama", "llama"},
                                         {"mistral", "llama"},
                                         {"qwen2", "qwen2"},
                                         {"qwen3", "qwen3"},
                                         {"gemma2", "gemma2"},
                                         {"gemma3_text", "gemma3"},
                                         {"phi3", "phi3"},
                                         {"smollm3", "smollm3"}}) {
    EXPECT_STREQ(gguf_family_of(config_of(model_type)).name, name);
  }
  for (const char* other : {"mixtral", "qwen3_moe"}) {
    EXPECT_MESSAGE(FormatError, gguf_family_of(config_of(other)), "is not written as GGUF");
  }
  EXPECT_STREQ(gguf_family_named("gemma2", "a.gguf").family->model_type, "gemma2");
  EXPECT_MESSAGE(FormatError, gguf_family_named("falcon", "a.gguf"),
                 "a.gguf: general.architecture is 'falcon'; known are llama, qwen2");
}

TEST(GgufFamily, WhatLlamaCppComputesOtherwiseIsRefused) {
  const auto refused = [](const char* model_type, const char* changes, const char* part) {
    EXPECT_MESSAGE(FormatError, gguf_family_of(config_of(model_type, Json::parse(changes))), part);
  };
  refused("qwen2", R"({"use_sliding_window": true, "max_window_layers": 2})",
          "no block has a window");
  refused("qwen3", R"({"attention_bias": true})", "o_proj and the MLP have no bias");
  refused("smollm3", R"({"mlp_bias": true})", "o_proj and the MLP have no bias");
  refused("smollm3", R"({"no_rope_layer_interval": 3})", "every fourth block turns nothing");
  refused("gemma2", R"({"layer_types": ["full_attention", "sliding_attention", "full_attention",
                        "sliding_attention", "full_attention", "sliding_attention"]})",
          "the first of every two blocks has a window");
  refused("gemma2", R"({"attn_logit_softcapping": null})", "scores and logits are capped");
  refused("gemma3_text", R"({"sliding_window_pattern": 3})", "five of six blocks have a window");
  refused("gemma3_text", R"({"final_logit_softcapping": 30})", "nothing is capped");
  refused("gemma3_text", R"({"rope_local_base_freq": 5000})", "rotate with the base 10000");
  refused("gemma3_text", R"({"query_pre_attn_scalar": 20})",
          "query_pre_attn_scalar is the width of a head");
}

TEST(GgufFamily, TheLargestGemmasScaleTheirQueriesByTheWidth) {
  EXPECT_EQ(gguf_query_scalar(config_of("gemma2")), 16);
  EXPECT_EQ(
      gguf_query_scalar(config_of("gemma2", {{"num_hidden_layers", 46}, {"hidden_size", 80}})), 20);
  EXPECT_EQ(
      gguf_query_scalar(config_of("gemma3_text", {{"num_hidden_layers", 62}, {"hidden_size", 80}})),
      20);
  EXPECT_EQ(
      gguf_query_scalar(config_of("gemma3_text", {{"num_hidden_layers", 46}, {"hidden_size", 80}})),
      16);
}

TEST(GgufFamily, AnIgnoredWindowIsTold) {
  EXPECT_EQ(gguf_difference(config_of("llama")), "");
  EXPECT_EQ(gguf_difference(config_of("mistral", {{"sliding_window", nullptr}})), "");
  EXPECT_EQ(gguf_difference(config_of("mistral", {{"sliding_window", 4096}})), "");
  EXPECT_NE(gguf_difference(config_of("mistral", {{"sliding_window", 1024}}))
                .find("beyond 1024 tokens it sees more"),
            std::string::npos);
  EXPECT_NE(gguf_difference(config_of("phi3", {{"sliding_window", 2047}})), "");
  EXPECT_EQ(gguf_difference(config_of("gemma2", {{"sliding_window", 1024}})), "");
}

class GgufFamilyFile : public ::testing::Test {
 protected:
  static GgufBuilder metadata(const std::string& family) {
    GgufBuilder file;
    file.text("general.architecture", family);
    for (const auto& [key, value] : {std::pair{"embedding_length", 64},
                                     {"feed_forward_length", 96},
                                     {"block_count", 6},
                                     {"attention.head_count", 4},
                                     {"attention.head_count_kv", 2},
                                     {"context_length", 4096},
                                     {"vocab_size", 100}}) {
      file.u32(family + "." + key, static_cast<uint32_t>(value));
    }
    file.f32(family + ".attention.layer_norm_rms_epsilon", 1e-5f);
    return file;
  }
  HfConfig read(const GgufBuilder& file) {
    return gguf_config(GgufReader(folder_.put("a.gguf", file.build())));
  }
  TemporaryFolder folder_;
};

TEST_F(GgufFamilyFile, GemmaIsFilledIn) {
  const HfConfig two = read(metadata("gemma2")
                                .u32("gemma2.attention.sliding_window", 77)
                                .u32("gemma2.attention.key_length", 32)
                                .f32("gemma2.attn_logit_softcapping", 50)
                                .f32("gemma2.final_logit_softcapping", 30));
  EXPECT_EQ(two.architecture, "Gemma2ForCausalLM");
  EXPECT_EQ(two.arch.attention_softcap, 50);
  EXPECT_EQ(two.arch.logit_softcap, 30);
  EXPECT_EQ(two.block(0).sliding_window, 77);
  EXPECT_EQ(two.block(1).sliding_window, 0);
  EXPECT_EQ(two.arch.activation, Activation::kGeluTanh);
  EXPECT_EQ(two.arch.norm_offset, 1);
  EXPECT_NEAR(two.query_scale(), 1 / std::sqrt(32.0), 1e-12);
  const HfConfig three = read(metadata("gemma3")
                                  .u32("gemma3.attention.sliding_window", 99)
                                  .text("gemma3.rope.scaling.type", "linear")
                                  .f32("gemma3.rope.scaling.factor", 8));
  EXPECT_EQ(three.model_type, "gemma3_text");
  EXPECT_EQ(three.rope.theta, 1e6);
  EXPECT_EQ(three.rope.type, RopeType::kLinear);
  EXPECT_EQ(three.local_rope->theta, 1e4);
  EXPECT_EQ(three.local_rope->type, RopeType::kDefault);
  EXPECT_EQ(three.block(4).rope, RopeUse::kLocal);
  EXPECT_EQ(three.block(5).rope, RopeUse::kGlobal);
}

TEST_F(GgufFamilyFile, OthersAreFilledIn) {
  EXPECT_TRUE(read(metadata("qwen2")).arch.qkv_bias);
  EXPECT_TRUE(read(metadata("qwen3")).arch.has_query_key_norm);
  const HfConfig smol = read(metadata("smollm3"));
  EXPECT_EQ(smol.block(3).rope, RopeUse::kNone);
  EXPECT_EQ(smol.block(4).rope, RopeUse::kGlobal);
  const HfConfig phi = read(metadata("phi3")
                                .u32("phi3.rope.dimension_count", 12)
                                .u32("phi3.attention.sliding_window", 64));
  EXPECT_TRUE(phi.arch.has_fused_projections);
  EXPECT_EQ(phi.rope.partial_rotary_factor, 0.75);
  EXPECT_EQ(phi.block(2).sliding_window, 64);
}

TEST_F(GgufFamilyFile, LongropeNeedsBothListsOfFactors) {
  const auto longrope = [] {
    return metadata("phi3").u32("phi3.rope.scaling.original_context_length", 1024);
  };
  auto good = longrope();
  good.floats("rope_factors_long.weight", {8}, 3).floats("rope_factors_short.weight", {8}, 1);
  const HfConfig config = read(good);
  EXPECT_EQ(config.rope.type, RopeType::kLongrope);
  EXPECT_EQ(config.rope.long_factor, std::vector<double>(8, 3.0));
  EXPECT_EQ(config.rope.factor, 4.0);
  auto zero = metadata("phi3").u32("phi3.rope.scaling.original_context_length", 0);
  zero.floats("rope_factors_long.weight", {8}, 3).floats("rope_factors_short.weight", {8}, 1);
  EXPECT_MESSAGE(FormatError, read(zero),
                 "phi3.rope.scaling.original_context_length is 0, 1 or more is allowed");
  auto one = longrope();
  one.floats("rope_factors_long.weight", {8}, 3);
  EXPECT_MESSAGE(ShapeError, read(one),
                 "'rope_factors_short.weight' is missing or has not the shape");
  auto other = longrope();
  other.floats("rope_factors_long.weight", {4}, 3).floats("rope_factors_short.weight", {8}, 1);
  EXPECT_MESSAGE(ShapeError, read(other), "'rope_factors_long.weight' is missing or has not the");
}

TEST_F(GgufFamilyFile, KeysOfOtherFamiliesAreRefused) {
  EXPECT_MESSAGE(FormatError, read(metadata("qwen2").u32("qwen2.attention.sliding_window", 9)),
                 "metadata key 'qwen2.attention.sliding_window' is 9");
  EXPECT_MESSAGE(FormatError, read(metadata("gemma3").f32("gemma3.attn_logit_softcapping", 50)),
                 "metadata key 'gemma3.attn_logit_softcapping' is 50");
  EXPECT_MESSAGE(FormatError, read(metadata("gemma3").f32("gemma3.rope.freq_base_swa", 5e3f)),
                 "metadata key 'gemma3.rope.freq_base_swa' is 5000");
  EXPECT_MESSAGE(FormatError, read(metadata("qwen3").u32("qwen3.rope.dimension_count", 8)),
                 "qwen3.rope.dimension_count is 8, the head width 16 is allowed");
  EXPECT_MESSAGE(FormatError, read(metadata("phi3").u32("phi3.rope.dimension_count", 7)),
                 "phi3.rope.dimension_count / head width is 0.4375, which makes 7 of 16");
}

}  // namespace
}  // namespace qlora::io
