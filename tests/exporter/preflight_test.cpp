#include "exporter/preflight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "core/error.h"
#include "exporter/kernel_rules.h"
#include "exporter/module_patterns.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;
using Q = QuantizationType;

/// SmolLM2-135M: 576 columns, 1536 in the middle.
io::HfConfig smol() {
  io::HfConfig c;
  c.architecture = "LlamaForCausalLM";
  c.model_type = "llama";
  c.vocab_size = 49152;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.num_hidden_layers = 30;
  c.num_attention_heads = 9;
  c.num_key_value_heads = 3;
  c.head_dim = 64;
  c.max_position_embeddings = 8192;
  c.tie_word_embeddings = true;
  return c;
}

io::HfConfig sized(int64_t hidden, int64_t middle) {
  io::HfConfig c = smol();
  c.hidden_size = hidden;
  c.intermediate_size = middle;
  c.num_hidden_layers = 2;
  c.num_attention_heads = c.num_key_value_heads = hidden % 64 == 0 ? hidden / 64 : 1;
  c.head_dim = hidden % 64 == 0 ? 64 : hidden;
  return c;
}

std::string error_of(const io::HfConfig& config, const GridOptions& options) {
  return testing::refusal_of<Error>([&] { preflight(config, options); }, "[export] ");
}

bool holds(const std::vector<std::string>& texts, const std::string& part) {
  return std::any_of(texts.begin(), texts.end(),
                     [&](const std::string& t) { return t.find(part) != std::string::npos; });
}

TEST(Preflight, AutoTakesTheLargestGroupThatFits) {
  EXPECT_EQ(preflight(smol(), {}).group_size, 64);
  EXPECT_TRUE(holds(preflight(smol(), {}).notices, "group_size auto is 64"));
  EXPECT_EQ(preflight(sized(1024, 2816), {}).group_size, 128);
  EXPECT_EQ(preflight(sized(96, 256), {}).group_size, 32);
  // A matrix that is left out does not count.
  EXPECT_EQ(preflight(sized(1024, 96), {}).group_size, 32);
  EXPECT_EQ(preflight(sized(1024, 96), {.skip_modules = {"down_proj"}}).group_size, 128);
  EXPECT_EQ(
      preflight(sized(1024, 96), {.type = Q::kGptq, .group_size_pattern = {{"down_proj", 32}}})
          .group_size,
      128);
  EXPECT_NE(error_of(sized(1024, 2000), {}).find("none of 128, 64 and 32 divides every matrix"),
            std::string::npos);
}

TEST(Preflight, SaysWhichGroupSizeWorks) {
  EXPECT_EQ(error_of(smol(), {.group_size = GroupSize::k128}),
            "[export] group_size 128 does not divide the 576 columns of "
            "model.layers.0.self_attn.q_proj; every matrix fits 64, 32");
  EXPECT_EQ(error_of(smol(), {.group_size = GroupSize::k64}), "");
  EXPECT_NE(error_of(sized(96, 256), {.group_size = GroupSize::k64}).find("every matrix fits 32"),
            std::string::npos);
}

TEST(Preflight, ListsEveryLinear) {
  const Preflight p = preflight(smol(), {.type = Q::kGptq});
  EXPECT_EQ(p.modules.size(), 30u * 7u);
  EXPECT_EQ(p.modules[0].name, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(p.at("model.layers.29.mlp.down_proj").cols, 1536);
  EXPECT_EQ(p.at("model.layers.29.mlp.down_proj").groups(), 24);
  EXPECT_TRUE(p.at("model.layers.3.self_attn.k_proj").is_quantized());
  EXPECT_THROW(p.at("model.layers.30.mlp.down_proj"), ValueError);
  EXPECT_FALSE(p.has_overrides());
  io::HfConfig untied = smol();
  untied.tie_word_embeddings = false;
  const Preflight with_head = preflight(untied, {.type = Q::kGptq});
  EXPECT_EQ(with_head.modules.size(), 30u * 7u + 1);
  EXPECT_FALSE(with_head.at("lm_head").is_quantized());
}

TEST(Preflight, PatternsOverrideModules) {
  const Preflight p = preflight(smol(), {.type = Q::kGptq,
                                         .bits_pattern = {{"down_proj", 8}},
                                         .group_size_pattern = {{"down_proj", 32}},
                                         .skip_modules = {R"(model\.layers\.(0|29)\..*)"}});
  EXPECT_EQ(p.at("model.layers.1.mlp.down_proj").bits, 8);
  EXPECT_EQ(p.at("model.layers.1.mlp.down_proj").group_size, 32);
  EXPECT_EQ(p.at("model.layers.1.mlp.up_proj").bits, 4);
  EXPECT_FALSE(p.at("model.layers.29.mlp.down_proj").is_quantized());
  EXPECT_TRUE(p.has_overrides());
  EXPECT_TRUE(holds(p.notices, "transformers and AutoGPTQ do not"));

  EXPECT_NE(error_of(smol(), {.skip_modules = {"down_porj"}}).find("did you mean down_proj?"),
            std::string::npos);
  EXPECT_NE(error_of(smol(), {.skip_modules = {"("}}).find("is no regular expression"),
            std::string::npos);
  EXPECT_NE(
      error_of(smol(), {.bits_pattern = {{"down_proj", 8}}}).find("allowed in the format awq: 4"),
      std::string::npos);
  EXPECT_NE(error_of(smol(), {.type = Q::kGptq, .bits_pattern = {{"down_proj", 5}}}), "");
  EXPECT_NE(error_of(smol(), {.type = Q::kFp8, .bits_pattern = {{"down_proj", 8}}}), "");
  EXPECT_NE(error_of(smol(), {.group_size_pattern = {{"down_proj", 32}}}), "");
  EXPECT_NE(error_of(smol(), {.type = Q::kGptq, .group_size_pattern = {{"down_proj", 0}}}), "");
  EXPECT_NE(error_of(smol(), {.type = Q::kGptq, .group_size_pattern = {{"q_proj", 100}}}), "");
  EXPECT_EQ(error_of(smol(), {.type = Q::kGptq, .group_size_pattern = {{"down_proj", 96}}}), "");
}

TEST(Preflight, FusedMatricesOfVllmHaveToAgree) {
  const GridOptions mixed{.type = Q::kGptq, .bits_pattern = {{"v_proj", 8}}};
  EXPECT_TRUE(holds(preflight(smol(), mixed).warnings, "vLLM fuses them"));
  GridOptions vllm = mixed;
  vllm.loader = Loader::kVllm;
  EXPECT_NE(error_of(smol(), vllm).find("give the parts the same pattern"), std::string::npos);
  vllm.bits_pattern = {{"q_proj", 8}, {"k_proj", 8}, {"v_proj", 8}};
  EXPECT_EQ(error_of(smol(), vllm), "");
  EXPECT_TRUE(
      holds(preflight(smol(), {.skip_modules = {"gate_proj"}}).warnings, "vLLM fuses them"));
  EXPECT_FALSE(holds(preflight(smol(), {.skip_modules = {"down_proj"}}).warnings, "fuses"));
}

TEST(Preflight, SaysWhichKernelsServeIt) {
  // 576 is no multiple of 128.
  EXPECT_TRUE(holds(preflight(smol(), {}).notices, "vLLM takes its slower kernels"));
  EXPECT_FALSE(holds(preflight(sized(1024, 2816), {}).notices, "Marlin"));
  EXPECT_TRUE(holds(preflight(sized(1024, 2816), {.type = Q::kGptq, .symmetric = false}).notices,
                    "asymmetric GPTQ does not run on vLLM's Marlin"));
  EXPECT_TRUE(
      holds(preflight(sized(1024, 2816), {.type = Q::kGptq, .bits = 3}).notices, "2- and 3-bit"));
  const GridOptions packed{.type = Q::kGptq, .format = F::kCompressedTensors};
  EXPECT_TRUE(holds(preflight(smol(), packed).warnings, "vLLM may refuse the model"));
  GridOptions vllm = packed;
  vllm.loader = Loader::kVllm;
  EXPECT_NE(error_of(smol(), vllm).find("choose the format gptq or awq"), std::string::npos);
  vllm.loader = Loader::kTransformers;
  EXPECT_TRUE(preflight(smol(), vllm).warnings.empty());
  EXPECT_TRUE(holds(
      preflight(smol(),
                {.type = Q::kGptq, .group_size = GroupSize::kPerRow, .loader = Loader::kGptqmodel})
          .warnings,
      "fail on group_size -1"));
}

TEST(Preflight, RefusesShapesThatCannotBePacked) {
  io::HfConfig narrow = sized(128, 256);
  narrow.num_attention_heads = 1;
  narrow.num_key_value_heads = 1;
  narrow.head_dim = 20;  // q, k, v: 20 rows
  EXPECT_NE(error_of(narrow, {.type = Q::kGptq, .skip_modules = {"o_proj"}})
                .find("is [20, 128], but GPTQ's packing needs rows that are a multiple of 32"),
            std::string::npos);
  EXPECT_NE(error_of(narrow, {.skip_modules = {"o_proj"}})
                .find("AWQ's packing needs rows that are "
                      "a multiple of 8"),
            std::string::npos);
  EXPECT_TRUE(holds(preflight(narrow, {.type = Q::kFp8}).warnings, "multiples of 16"));
  EXPECT_NE(error_of(narrow, {.type = Q::kSmoothquant, .loader = Loader::kVllm}), "");
  EXPECT_EQ(error_of(narrow, {.type = Q::kNone}), "");
}

TEST(Preflight, DecidesTheGgufType) {
  const GridOptions open{.type = Q::kRtn, .format = F::kGguf};
  EXPECT_EQ(preflight(smol(), open).grid.gguf_type, GgufType::kQ4_0);
  EXPECT_EQ(preflight(sized(1024, 2816), open).grid.gguf_type, GgufType::kQ4_K);
  EXPECT_FALSE(preflight(sized(1024, 2816), open).grid.symmetric);
  GridOptions asked = open;
  asked.gguf_type = GgufType::kQ4_K;
  EXPECT_TRUE(holds(preflight(smol(), asked).warnings, "576 columns as Q8_0"));
  EXPECT_TRUE(preflight(sized(1024, 2816), asked).warnings.empty());
  EXPECT_EQ(ggml_type(GgufType::kQ8_0), io::GgmlType::kQ8_0);
  EXPECT_EQ(ggml_type(GgufType::kF16), io::GgmlType::kF16);
}

TEST(Preflight, TheOutputMatrixStaysUnlessAsked) {
  EXPECT_NE(error_of(smol(), {.type = Q::kGptq, .quantize_lm_head = true}).find("embedding table"),
            std::string::npos);
  io::HfConfig untied = smol();
  untied.tie_word_embeddings = false;
  EXPECT_NE(error_of(untied, {.quantize_lm_head = true}).find("choose gptq"), std::string::npos);
  const Preflight p = preflight(untied, {.type = Q::kGptq, .quantize_lm_head = true});
  EXPECT_TRUE(p.at("lm_head").is_quantized());
  EXPECT_TRUE(holds(p.warnings, "transformers fails on it"));
}

TEST(Preflight, EstimatesTheOutput) {
  // Embedding 49152 x 576, norms, and 30 blocks of 3'538'944 quantized elements.
  const uint64_t embedding = 2ull * 49152 * 576, norms = 2ull * 61 * 576;
  const uint64_t elements = 30ull * 3'538'944;
  EXPECT_EQ(preflight(smol(), {.type = Q::kNone}).output_bytes, embedding + norms + 2 * elements);
  const uint64_t awq = preflight(smol(), {}).output_bytes;
  EXPECT_EQ(awq, embedding + norms + elements / 2 + elements / 64 * 2 + elements / 64 / 2);
}

TEST(CheckSpace, ComparesWithWhatIsFree) {
  EXPECT_NO_THROW(check_space("out/that/does/not/exist", 1));
  EXPECT_THROW(check_space("out", UINT64_MAX), IoError);
}

TEST(MatchesModule, TakesEndingsAtADotAndWholeRegexes) {
  const std::string name = "model.layers.0.mlp.down_proj";
  for (const char* pattern : {"down_proj", "mlp.down_proj", "model.layers.0.mlp.down_proj",
                              R"(.*down_proj)", R"(model\.layers\.\d+\.mlp\.(up|down)_proj)"}) {
    EXPECT_TRUE(matches_module(name, pattern, "k")) << pattern;
  }
  for (const char* pattern : {"own_proj", "down", "layers.0", R"(mlp\.down_proj)", ".*up_proj"}) {
    EXPECT_FALSE(matches_module(name, pattern, "k")) << pattern;
  }
}

}  // namespace
}  // namespace qlora::exporter
