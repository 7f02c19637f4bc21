#include "lora/targets.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::lora {
namespace {

std::vector<std::string> llama_modules(int layers) {
  std::vector<std::string> names;
  for (int i = 0; i < layers; ++i) {
    for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                             "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
      names.push_back(fmt::format("model.layers.{}.{}", i, part));
    }
  }
  return names;
}

LoraOptions with_targets(std::vector<std::string> targets) {
  LoraOptions options;
  options.target_modules = std::move(targets);
  return options;
}

TEST(Targets, AllLinearTakesEveryModule) {
  const auto modules = llama_modules(2);
  EXPECT_EQ(select_targets(modules, with_targets({"all-linear"})), modules);
}

TEST(Targets, ExpertsAreTakenWhereTheyAreNamed) {
  const std::string q = "model.layers.0.self_attn.q_proj";
  const std::string first = "model.layers.0.mlp.experts.0.up_proj";
  const std::string second = "model.layers.0.mlp.experts.1.up_proj";
  const std::vector<std::string> modules = {q, first, second};
  EXPECT_EQ(select_targets(modules, with_targets({"all-linear"})), std::vector<std::string>{q});
  EXPECT_EQ(select_targets(modules, with_targets({"up_proj"})),
            (std::vector<std::string>{first, second}));
  EXPECT_EQ(select_targets(modules, with_targets({R"(.*experts\.1\..*)"})),
            std::vector<std::string>{second});
}

TEST(Targets, EndingsMatchAtADotOnly) {
  const std::vector<std::string> modules = {"a.q_proj", "a.xq_proj", "q_proj", "a.q_proj.b"};
  EXPECT_EQ(select_targets(modules, with_targets({"q_proj"})),
            (std::vector<std::string>{"a.q_proj", "q_proj"}));
}

TEST(Targets, AListKeepsTheModelsOrder) {
  const auto selected = select_targets(llama_modules(2), with_targets({"v_proj", "q_proj"}));
  ASSERT_EQ(selected.size(), 4u);
  EXPECT_EQ(selected[0], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(selected[1], "model.layers.0.self_attn.v_proj");
}

TEST(Targets, ARegexHasToMatchTheWholeName) {
  const auto modules = llama_modules(12);
  const auto selected = select_targets(modules, with_targets({R"(.*\.layers\.1\.mlp\..*)"}));
  ASSERT_EQ(selected.size(), 3u);  // layer 1, not 10 and 11
  EXPECT_THROW(select_targets(modules, with_targets({"layers.1.*"})), ConfigError);
}

TEST(Targets, AnUnknownNameIsRefusedWithTheNearest) {
  const auto text = testing::message_of<ConfigError>(
      [] { select_targets(llama_modules(1), with_targets({"q_porj"})); });
  EXPECT_SAYS(text, "did you mean 'q_proj'");
  EXPECT_SAYS(text, "down_proj");
}

TEST(Targets, ABrokenRegexAndAnEmptyListAreRefused) {
  EXPECT_ERROR(ConfigError, select_targets(llama_modules(1), with_targets({"(q_proj"})),
               "no regular expression");
  EXPECT_THROW(select_targets(llama_modules(1), with_targets({})), ConfigError);
}

TEST(Targets, APatternThatMatchesNoAdaptedModuleIsRefusedByName) {
  const auto refused = [](LoraOptions options) {
    options.target_modules = {"q_proj", "v_proj"};
    return testing::refusal_of<ConfigError>([&] { select_targets(llama_modules(2), options); });
  };
  EXPECT_SAYS(refused({.rank_pattern = {{"q_proj", 4}, {"up_proj", 2}}}),
              "rank_pattern has 'up_proj', which matches none of the 4 adapted modules, such as "
              "model.layers.0.self_attn.q_proj");
  EXPECT_SAYS(refused({.alpha_pattern = {{R"(layers\.2\..*)", 4}}}),
              R"(alpha_pattern has 'layers\.2\..*', which matches none)");
  EXPECT_SAYS(refused({.alpha_pattern = {{"(q_proj", 4}}}), "no regular expression");
  EXPECT_EQ(refused({.rank_pattern = {{R"(layers\.1\..*)", 4}}, .alpha_pattern = {{"v_proj", 4}}}),
            "");
}

TEST(AdapterShape, PatternsOverrideRankAndAlpha) {
  LoraOptions options;
  options.r = 8;
  options.lora_alpha = 16;
  options.rank_pattern = {{"q_proj", 4}, {R"(layers\.1\..*)", 2}};
  options.alpha_pattern = {{"q_proj", 20}};
  const auto plain = adapter_shape("model.layers.0.mlp.up_proj", options);
  EXPECT_EQ(plain.r, 8);
  EXPECT_EQ(plain.scale, 2.0);
  const auto q = adapter_shape("model.layers.0.self_attn.q_proj", options);
  EXPECT_EQ(q.r, 4);
  EXPECT_EQ(q.scale, 5.0);
  EXPECT_EQ(adapter_shape("model.layers.1.mlp.up_proj", options).r, 2);
  EXPECT_EQ(adapter_shape("model.layers.10.mlp.up_proj", options).r, 8);
  options.rank_pattern = {{"q_proj", 0}};
  EXPECT_THROW(adapter_shape("a.q_proj", options), ConfigError);
}

TEST(AdapterShape, RankStabilizedScaleIsAlphaOverRootR) {
  LoraOptions options;
  options.use_rslora = true;
  options.r = 16;
  options.lora_alpha = 32;
  EXPECT_EQ(adapter_shape("x", options).scale, 8.0);
}

TEST(TrainableSummary, EqualsPeftForLlama2With7Projections) {
  // Per layer: q, k, v, o 16·(4096 + 4096), gate, up, down 16·(4096 + 11008).
  const int64_t trainable = 32 * 16 * (4 * 8192 + 3 * 15104);
  EXPECT_EQ(trainable_summary(trainable, 6738415616),
            "trainable params: 39,976,960 || all params: 6,778,392,576 || trainable%: 0.5898");
  EXPECT_EQ(trainable_summary(1, 99),
            "trainable params: 1 || all params: 100 || trainable%: 1.0000");
}

}  // namespace
}  // namespace qlora::lora
