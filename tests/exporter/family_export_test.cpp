// Exports of every family of models: each is read back and measured.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "io/family.h"
#include "tests/exporter/export_fixture.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

using namespace qlora::testing;  // the helpers of the tests

/// A family, with sizes that every format takes.
struct Model {
  const char* name;
  const char* keys;  // JSON over the tiny Llama's config.json
  const char* gguf;  // what says why there is no GGUF; nullptr: there is
};

void PrintTo(const Model& model, std::ostream* out) {
  *out << model.name;
}

constexpr Model kDense[] = {
    {"Mistral", R"({"architectures": ["MistralForCausalLM"], "model_type": "mistral",
                    "sliding_window": 24})",
     nullptr},
    {"Qwen2", R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"})", nullptr},
    {"Qwen2Window", R"({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
                        "use_sliding_window": true, "sliding_window": 24, "max_window_layers": 1})",
     "that no block has a window"},
    {"Qwen3", R"({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32})",
     nullptr},
    {"Gemma2", R"({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "head_dim": 32,
                   "query_pre_attn_scalar": 32, "hidden_act": null, "sliding_window": 24,
                   "attn_logit_softcapping": 5.0, "final_logit_softcapping": 9.0})",
     nullptr},
    {"Gemma3", R"({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
                   "head_dim": 32, "query_pre_attn_scalar": 32, "hidden_act": null,
                   "sliding_window": 24, "num_hidden_layers": 6,
                   "rope_scaling": {"rope_type": "linear", "factor": 8.0}})",
     nullptr},
    {"Gemma3Scaled", R"({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text",
                         "head_dim": 32, "query_pre_attn_scalar": 20, "hidden_act": null,
                         "sliding_window": 24, "num_hidden_layers": 6})",
     "query_pre_attn_scalar is the width of a head"},
    {"Phi3", R"({"architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "sliding_window": 24,
                 "num_key_value_heads": 4})",
     nullptr},
    {"Phi3Longrope", R"({"architectures": ["Phi3ForCausalLM"], "model_type": "phi3",
                         "partial_rotary_factor": 0.5, "original_max_position_embeddings": 32,
                         "rope_scaling": {"type": "longrope", "short_factor": [1, 1.1, 1.3, 1.5],
                                          "long_factor": [1.5, 2, 3, 5]}})",
     nullptr},
    {"SmolLm3", R"({"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
                    "num_hidden_layers": 4})",
     nullptr},
    {"SmolLm3Often", R"({"architectures": ["SmolLM3ForCausalLM"], "model_type": "smollm3",
                         "no_rope_layer_interval": 2})",
     "every fourth block turns nothing"}};

class FamilyExport : public ExportModel, public ::testing::WithParamInterface<Model> {
 protected:
  void SetUp() override {
    TinyCheckpoint settings{.layers = 2, .weight_scale = 0.15};
    nlohmann::json keys = nlohmann::json::parse(GetParam().keys);
    keys["pad_token_id"] = kTinyEndOfText;  // that of some families lies outside this vocabulary
    settings.config_changes = keys.dump();
    write_tiny_checkpoint(folder_ / "model", settings);
    source_.model_path = (folder_ / "model").string();
    source_.compute_dtype = model::ComputeDtype::kFloat32;
    options_.output_dir = (folder_ / "out").string();
    options_.overwrite = true;
    options_.grid.group_size = GroupSize::kAuto;
  }

  /// The result measures, read back, as it was reported, and as near to its reference as it may.
  void expect_near(const ExportResult& result, double most_kl) {
    const StageResult& chosen = *chosen_stage(result.report);
    EXPECT_NEAR(*chosen.perplexity / perplexity(result.model_path), 1, 2e-4);
    EXPECT_LT(*chosen.kl_divergence, most_kl);
    EXPECT_GT(*chosen.kl_divergence, -1e-6);
  }

  /// An adapter on every linear of every block, as wide as they are.
  void write_adapter() {
    const auto base = loader(folder_ / "model");
    Rng rng(5);
    const auto matrix = [&](int64_t rows, int64_t cols) {
      torch::Tensor t = torch::empty({rows, cols}, torch::kFloat32);
      for (int64_t i = 0; i < t.numel(); ++i) {
        t.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal() * 0.1);
      }
      return t;
    };
    std::vector<lora::NamedAdapter> adapters;
    for (int64_t block = 0; block < base.block_count(); ++block) {
      for (const std::string& module : base.linear_names(block)) {
        const auto& shape = base.checkpoint().shape(module + ".weight");
        adapters.push_back({module,
                            {.a = matrix(2, shape[1]),
                             .b = matrix(shape[0], 2),
                             .alpha = 4,
                             .scale = 2,
                             .dtype = torch::kFloat32}});
      }
    }
    lora::LoraOptions options;
    options.r = 2;
    options.lora_alpha = 4;
    lora::write_peft_adapter(folder_ / "adapter", adapters, options, "tiny");
    source_.adapter = (folder_ / "adapter").string();
  }
};

using Q = QuantizationType;
using F = ExportFormat;

// 8 bits are near the model: what is folded into the wrong place is far from it.
TEST_P(FamilyExport, AwqFoldsItsScalesWhereTheFamilyHasThem) {
  options_.grid.type = Q::kAwq;
  options_.grid.format = F::kGptq;
  options_.grid.bits = 8;
  const ExportResult result = run();
  expect_near(result, 0.01);
  double most_alpha = 0;
  for (const auto& linear : log_.linears) {
    most_alpha = std::max(most_alpha, linear.at("alpha").get<double>());
  }
  EXPECT_GT(most_alpha, 0) << "nothing was scaled";
}

TEST_P(FamilyExport, GptqRoundsEveryPart) {
  options_.grid.type = Q::kGptq;
  options_.grid.bits = 8;
  expect_near(run(), 0.01);
  const auto base = loader(folder_ / "model");
  size_t linears = 0;
  for (int64_t block = 0; block < base.block_count(); ++block) {
    linears += base.linear_names(block).size();
  }
  EXPECT_EQ(log_.linears.size(), linears);
}

TEST_P(FamilyExport, SmoothquantFoldsIntoTheNorms) {
  options_.grid.type = Q::kSmoothquant;
  expect_near(run(), 0.03);
}

TEST_P(FamilyExport, MergesIntoSixteenBits) {
  write_adapter();
  options_.grid.type = Q::kNone;
  options_.merge_base = MergeBase::kOriginal;
  const ExportResult result = run();
  // Against the adapter on the NF4 base, which is some way off; against the merged model it is
  // BF16.
  const StageResult& merged = *find_stage(result.report, StageKind::kMerged);
  const StageResult& chosen = *chosen_stage(result.report);
  EXPECT_NEAR(*chosen.perplexity / *merged.perplexity, 1, 5e-3);
  EXPECT_NEAR(*chosen.perplexity / perplexity(result.model_path), 1, 2e-4);
  // Without the adapter the model is another one; BF16 alone makes less than 1e-4.
  EXPECT_GT(*find_stage(result.report, StageKind::kBaseNf4)->kl_divergence, 1e-3);
}

TEST_P(FamilyExport, GgufIsWrittenWhereLlamaCppComputesTheSame) {
  options_.grid.type = Q::kNone;
  options_.grid.format = F::kGguf;
  if (GetParam().gguf != nullptr) {
    EXPECT_SAYS(message_of<FormatError>([&] { run(); }), GetParam().gguf);
    return;
  }
  const ExportResult result = run();
  const auto before = loader(folder_ / "model"), after = loader(result.model_path);
  const io::HfConfig &a = before.config(), &b = after.config();
  const bool is_mistral = a.model_type == "mistral";
  EXPECT_EQ(b.model_type, is_mistral ? "llama" : a.model_type);
  EXPECT_EQ(RecordingLog::says(log_.warnings, "without its sliding window"),
            io::window_of(a) > 0 && (is_mistral || a.model_type == "phi3"));
  for (int64_t i = 0; i < a.num_hidden_layers && !is_mistral; ++i)
    EXPECT_EQ(a.block(i), b.block(i));
  EXPECT_NEAR(a.query_scale(), b.query_scale(), 1e-9);
  EXPECT_EQ(a.arch.attention_softcap, b.arch.attention_softcap);
  EXPECT_EQ(a.arch.logit_softcap, b.arch.logit_softcap);
  EXPECT_EQ(a.arch.activation, b.arch.activation);
  EXPECT_EQ(a.rope.type, b.rope.type);
  EXPECT_EQ(a.rope.partial_rotary_factor, b.rope.partial_rotary_factor);
  for (const std::string& name : before.checkpoint().names()) {
    const auto x = before.source().tensor_f32(name), y = after.source().tensor_f32(name);
    EXPECT_LE((x - y).abs().max().item<float>(), 1e-3 * x.abs().max().item<float>()) << name;
  }
  if (!is_mistral) expect_near(result, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyExport, ::testing::ValuesIn(kDense),
                         [](const auto& info) { return info.param.name; });

constexpr Model kMixtures[] = {
    {"Mixtral", R"({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
                    "num_local_experts": 4})",
     nullptr},
    {"Qwen3Moe", R"({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
                     "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                     "mlp_only_layers": [0]})",
     nullptr}};

class MixtureExport : public FamilyExport {};

TEST_P(MixtureExport, SixteenBitsAndPlainRoundingAreWritten) {
  options_.grid.type = Q::kNone;
  expect_near(run(), 1e-5);
  options_.grid.type = Q::kRtn;
  options_.grid.bits = 8;
  expect_near(run(), 0.01);
  EXPECT_TRUE(RecordingLog::says(log_.warnings, "the experts are written one by one"));
}

TEST_P(MixtureExport, WhatLooksAtActivationsIsRefused) {
  for (const Q type : {Q::kAwq, Q::kGptq, Q::kSmoothquant}) {
    options_.grid.type = type;
    EXPECT_SAYS(message_of<ConfigError>([&] { run(); }), "is a mixture of experts, and");
  }
  options_.grid.type = Q::kNone;
  options_.grid.format = F::kGguf;
  EXPECT_SAYS(message_of<ConfigError>([&] { run(); }), "gguf format is not made of one");
}

INSTANTIATE_TEST_SUITE_P(Mixtures, MixtureExport, ::testing::ValuesIn(kMixtures),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace qlora::exporter
