// Every family of models against transformers and peft (tests/fixtures/parity/families).
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lora/peft_files.h"
#include "model/decoder.h"
#include "tests/model/reference_tensors.h"

namespace qlora::model {
namespace {

namespace fs = std::filesystem;
using testing::joined;
using testing::load_tensor;
using testing::load_tokens;
using testing::relative_error;

// The bounds that the product promises in FP32.
constexpr double kLogitBound = 1e-4;
constexpr double kGradientBound = 1e-3;

fs::path families() {
  return testing::parity_folder() / "families";
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(families())) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class FamilyParity : public ::testing::TestWithParam<std::string> {
 protected:
  Decoder load() const {
    NullLog log;
    return Decoder::load({.model_path = folder_.string(),
                          .compute_dtype = ComputeDtype::kFloat32,
                          .load_in_4bit = false},
                         {}, log);
  }

  const fs::path folder_ = families() / GetParam();
  const io::SafetensorsReader reference_{folder_ / "reference.safetensors"};
};

TEST_P(FamilyParity, LogitsEqualTransformersAloneAndSideBySide) {
  const Decoder decoder = load();
  std::vector<std::vector<int32_t>> sequences;
  std::vector<torch::Tensor> expected;
  for (int i = 0; i < 2; ++i) {
    sequences.push_back(load_tokens(reference_, fmt::format("tokens_{}", i)));
    expected.push_back(load_tensor(reference_, fmt::format("logits_{}", i)));
    EXPECT_LT(relative_error(decoder.logits(joined({sequences.back()})), expected.back()),
              kLogitBound)
        << "sequence " << i << " alone";
  }
  EXPECT_LT(relative_error(decoder.logits(joined(sequences)), torch::cat(expected)), kLogitBound)
      << "both in one batch";
}

TEST_P(FamilyParity, ACacheGivesTheSameLogitsStepByStep) {
  const Decoder decoder = load();
  for (int i = 0; i < 2; ++i) {
    const auto tokens = load_tokens(reference_, fmt::format("tokens_{}", i));
    const auto expected = load_tensor(reference_, fmt::format("logits_{}", i));
    const auto length = static_cast<int64_t>(tokens.size());
    KvCache cache = decoder.new_cache(length);
    // A prompt, some tokens at once behind it, then one by one.
    for (int64_t begin = 0, count = 5; begin < length; begin += count) {
      count = begin == 0 ? 5 : begin == 5 ? 3 : 1;
      const auto logits =
          decoder.next_logits({tokens.begin() + begin, tokens.begin() + begin + count}, cache);
      const auto row = expected[begin + count - 1];
      EXPECT_LT(relative_error(logits.unsqueeze(0), row.unsqueeze(0)), kLogitBound)
          << "sequence " << i << " position " << begin + count - 1;
    }
  }
}

TEST_P(FamilyParity, LossAndEveryAdapterGradientEqualPeft) {
  nlohmann::json facts;
  std::ifstream(folder_ / "reference.json") >> facts;
  for (const bool checkpointing : {false, true}) {
    Decoder decoder = load();
    decoder.load_adapter((folder_ / "adapter").string(), lora::AdapterDtype::kFloat32);
    TokenBatch batch;
    batch.segment_starts = {0};
    for (int i = 0; i < 2; ++i) {
      const auto tokens = load_tokens(reference_, fmt::format("gradient_tokens_{}", i));
      const auto targets = load_tokens(reference_, fmt::format("gradient_targets_{}", i));
      batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
      batch.targets.insert(batch.targets.end(), targets.begin(), targets.end());
      batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
    }
    const torch::Tensor loss =
        decoder.loss_sum(batch, {.training = true, .gradient_checkpointing = checkpointing}) /
        batch.target_tokens();
    EXPECT_NEAR(loss.item<double>(), facts.at("loss").get<double>(), 1e-4);
    loss.backward();
    const auto adapters = decoder.adapters();
    EXPECT_EQ(adapters.size(), lora::read_peft_adapter(folder_ / "adapter").modules.size());
    for (const auto& [module, adapter] : adapters) {
      for (const auto& [half, parameter] : {std::pair{'A', adapter.a}, std::pair{'B', adapter.b}}) {
        const auto expected = load_tensor(
            reference_, fmt::format("gradient.base_model.model.{}.lora_{}.weight", module, half));
        ASSERT_TRUE(parameter.grad().defined()) << module << half;
        const double error =
            ((parameter.grad() - expected).norm() / expected.norm()).item<double>();
        EXPECT_LT(error, kGradientBound) << module << " lora_" << half;
      }
    }
  }
}

/// The files in adapter/ hold the linears of attention and MLP as peft finds them. Of a mixture
/// they hold attention alone: its plain MLPs are covered as well, its router and its experts are
/// not.
TEST_P(FamilyParity, AllLinearCoversAttentionAndPlainMlps) {
  Decoder decoder = load();
  decoder.add_adapters({.r = 2}, 1);
  const auto peft = lora::read_peft_adapter(folder_ / "adapter").modules;
  std::vector<std::string> mine, theirs;
  const std::string plain_mlp_of_mixture = "model.layers.1.mlp.";
  int64_t plain = 0;
  for (const auto& [module, adapter] : decoder.adapters()) {
    const bool is_plain = GetParam() == "qwen3_moe" && module.starts_with(plain_mlp_of_mixture);
    plain += is_plain;
    if (!is_plain) mine.push_back(module);
  }
  EXPECT_EQ(plain, GetParam() == "qwen3_moe" ? 3 : 0);
  for (const auto& [module, matrices] : peft) theirs.push_back(module);
  std::sort(mine.begin(), mine.end());
  EXPECT_EQ(mine, theirs);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyParity, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

TEST(Experts, AreTrainedWhereTheyAreNamed) {
  NullLog log;
  Decoder decoder = Decoder::load({.model_path = (families() / "mixtral").string(),
                                   .compute_dtype = ComputeDtype::kFloat32,
                                   .load_in_4bit = false},
                                  {}, log);
  lora::LoraOptions options;
  options.r = 2;
  options.target_modules = {"w2", "q_proj"};
  decoder.add_adapters(options, 1);
  const auto adapters = decoder.adapters();
  ASSERT_EQ(adapters.size(), 2U * (1 + 4));
  for (const auto& named : adapters) {
    const at::NoGradGuard no_graph;
    named.adapter.b.add_(0.05);
  }
  decoder
      .loss_sum(joined({{5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61, 65}}),
                {.training = true})
      .backward();
  int64_t reached = 0;
  for (const auto& named : adapters) {
    if (!named.adapter.a.grad().defined()) continue;  // no token chose this expert
    EXPECT_GT(named.adapter.a.grad().norm().item<double>(), 0) << named.module;
    ++reached;
  }
  EXPECT_GT(reached, 4);
}

}  // namespace
}  // namespace qlora::model
