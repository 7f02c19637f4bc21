// Logits and gradients against transformers and peft (tests/fixtures/parity).
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "lora/peft_files.h"
#include "model/decoder.h"
#include "quant/nf4.h"
#include "tests/model/reference_tensors.h"

namespace qlora::model {
namespace {

using testing::joined;
using testing::load_tensor;
using testing::load_tokens;
using testing::parity_folder;
using testing::relative_error;

// The bound that the product promises for FP32 logits.
constexpr double kLogitBound = 1e-4;

nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

Decoder load_fp32(const std::filesystem::path& folder, bool in_4bit = false) {
  NullLog log;
  return Decoder::load({.model_path = folder.string(),
                        .compute_dtype = ComputeDtype::kFloat32,
                        .load_in_4bit = in_4bit},
                       {}, log);
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& entry : read_json(parity_folder() / "models/cases.json")) {
    names.push_back(entry.at("name"));
  }
  return names;
}

class DecoderParity : public ::testing::TestWithParam<std::string> {};

TEST_P(DecoderParity, LogitsEqualTransformersAloneAndSideBySide) {
  const auto folder = parity_folder() / "models" / GetParam();
  const Decoder decoder = load_fp32(folder);
  const io::SafetensorsReader reference(folder / "reference.safetensors");
  std::vector<std::vector<int32_t>> sequences;
  std::vector<torch::Tensor> expected;
  for (int i = 0; reference.find(fmt::format("tokens_{}", i)); ++i) {
    sequences.push_back(load_tokens(reference, fmt::format("tokens_{}", i)));
    expected.push_back(load_tensor(reference, fmt::format("logits_{}", i)));
    EXPECT_LT(relative_error(decoder.logits(joined({sequences.back()})), expected.back()),
              kLogitBound)
        << "sequence " << i << " alone";
  }
  EXPECT_LT(relative_error(decoder.logits(joined(sequences)), torch::cat(expected)), kLogitBound)
      << "all sequences in one batch";
}

TEST_P(DecoderParity, CachedGenerationEqualsTheWholePassAndTransformers) {
  const auto folder = parity_folder() / "models" / GetParam();
  const Decoder decoder = load_fp32(folder);
  const io::SafetensorsReader reference(folder / "reference.safetensors");
  if (!reference.find("greedy")) return;  // cases.json says which cases hold a continuation
  const auto prompt = load_tokens(reference, "tokens_0");
  const auto expected = load_tokens(reference, "greedy");
  KvCache cache = decoder.new_cache(static_cast<int64_t>(prompt.size() + expected.size()));
  torch::Tensor logits = decoder.next_logits(prompt, cache);
  for (const int32_t wanted : expected) {
    const int32_t token = static_cast<int32_t>(logits.argmax().item<int64_t>());
    ASSERT_EQ(token, wanted);
    logits = decoder.next_logits({token}, cache);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DecoderParity, ::testing::ValuesIn(case_names()),
                         [](const auto& info) { return info.param; });

class GradientParity : public ::testing::TestWithParam<std::tuple<std::string, bool>> {};

TEST_P(GradientParity, LossAndEveryAdapterGradientEqualPeft) {
  const auto& [name, checkpointing] = GetParam();
  const auto folder = parity_folder() / "gradients" / name;
  const auto facts = read_json(folder / "reference.json");
  Decoder decoder = load_fp32(parity_folder() / "models" / facts.at("base").get<std::string>());
  decoder.load_adapter(folder.string(), lora::AdapterDtype::kFloat32);
  const io::SafetensorsReader reference(folder / "reference.safetensors");
  TokenBatch batch;
  batch.segment_starts = {0};
  for (int i = 0; reference.find(fmt::format("tokens_{}", i)); ++i) {
    const auto tokens = load_tokens(reference, fmt::format("tokens_{}", i));
    const auto targets = load_tokens(reference, fmt::format("targets_{}", i));
    batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
    batch.targets.insert(batch.targets.end(), targets.begin(), targets.end());
    batch.segment_starts.push_back(static_cast<int32_t>(batch.tokens.size()));
  }
  ASSERT_EQ(batch.target_tokens(), facts.at("target_tokens").get<int64_t>());

  const torch::Tensor loss =
      decoder.loss_sum(batch, {.training = true, .gradient_checkpointing = checkpointing}) /
      batch.target_tokens();
  EXPECT_NEAR(loss.item<double>(), facts.at("loss").get<double>(), 1e-4);
  loss.backward();

  for (const auto& [module, adapter] : decoder.adapters()) {
    for (const auto& [half, parameter] : {std::pair{'A', adapter.a}, std::pair{'B', adapter.b}}) {
      const auto expected =
          load_tensor(reference, fmt::format("base_model.model.{}.lora_{}.weight", module, half));
      ASSERT_TRUE(parameter.grad().defined()) << module << half;
      const double error = ((parameter.grad() - expected).norm() / expected.norm()).item<double>();
      EXPECT_LT(error, 1e-3) << module << " lora_" << half;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Gradients, GradientParity,
                         ::testing::Combine(::testing::Values("plain", "tied_llama3_rslora"),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<1>(info.param) ? "_checkpointed" : "");
                         });

class QuantizedParity : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedParity, LogitsOverTheNf4BaseEqualBitsandbytes) {
  const Decoder decoder = load_fp32(parity_folder() / "models" / GetParam(), /*in_4bit=*/true);
  const io::SafetensorsReader reference(parity_folder() / "nf4" / (GetParam() + ".safetensors"));
  const auto tokens = load_tokens(reference, "tokens");
  const auto expected = load_tensor(reference, "logits");
  EXPECT_LT(relative_error(decoder.logits(joined({tokens})), expected), kLogitBound);
}

INSTANTIATE_TEST_SUITE_P(Nf4, QuantizedParity, ::testing::Values("blocks_of_64", "mha_odd"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace qlora::model
