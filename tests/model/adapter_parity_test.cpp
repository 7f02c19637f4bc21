// Adapters that peft wrote, over a base that transformers made.
#include <gtest/gtest.h>

#include "core/error.h"
#include "model/decoder.h"
#include "tests/model/reference_tensors.h"

namespace qlora::model {
namespace {

using testing::joined;
using testing::load_tensor;
using testing::load_tokens;
using testing::parity_folder;

Decoder load_base(const std::string& name) {
  NullLog log;
  return Decoder::load({.model_path = (parity_folder() / "models" / name).string(),
                        .compute_dtype = ComputeDtype::kFloat32,
                        .load_in_4bit = false},
                       {}, log);
}

class AdapterParity : public ::testing::TestWithParam<std::string> {};

TEST_P(AdapterParity, LogitsEqualPeft) {
  const auto folder = parity_folder() / "adapters" / GetParam();
  Decoder decoder = load_base("plain");
  decoder.load_adapter(folder.string(), lora::AdapterDtype::kFloat32);
  const io::SafetensorsReader reference(folder / "reference.safetensors");
  const auto logits = decoder.logits(joined({load_tokens(reference, "tokens")}));
  EXPECT_LT(testing::relative_error(logits, load_tensor(reference, "logits")), 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Peft, AdapterParity,
                         ::testing::Values("all_linear", "patterns", "patterns_in_file_order",
                                           "q_v_only", "regex", "rslora", "rslora_patterns"),
                         [](const auto& info) { return info.param; });

TEST(Adapter, OfAnotherBaseIsRefused) {
  Decoder wider = load_base("head_dim_32");
  EXPECT_THROW(wider.load_adapter((parity_folder() / "adapters/all_linear").string(),
                                  lora::AdapterDtype::kFloat32),
               ShapeError);
}

TEST(Adapter, AFreshOneChangesNothingAndIsTheSameForTheSameSeed) {
  Decoder decoder = load_base("plain");
  const auto batch = joined({{1, 2, 3, 4, 5}});
  const auto before = decoder.logits(batch);
  decoder.add_adapters({.r = 4}, 7);
  EXPECT_TRUE(decoder.logits(batch).equal(before));
  Decoder again = load_base("plain");
  again.add_adapters({.r = 4}, 7);
  Decoder other = load_base("plain");
  other.add_adapters({.r = 4}, 8);
  const auto a = decoder.adapters(), b = again.adapters(), c = other.adapters();
  ASSERT_EQ(a.size(), 14u);
  EXPECT_TRUE(a[3].adapter.a.equal(b[3].adapter.a));
  EXPECT_FALSE(a[3].adapter.a.equal(c[3].adapter.a));
  EXPECT_FALSE(a[0].adapter.a.equal(a[1].adapter.a.narrow(1, 0, a[0].adapter.a.size(1))));
  // Uniform in ±1/sqrt(K), as torch's Linear.
  EXPECT_LE(a[0].adapter.a.abs().max().item<float>(), 1 / 8.0f);
  EXPECT_GT(a[0].adapter.a.abs().max().item<float>(), 0.9f / 8.0f);
}

TEST(Decoder, TokensOutsideTheVocabularyAndBrokenSegmentsAreRefused) {
  const Decoder decoder = load_base("plain");
  EXPECT_THROW(decoder.logits(joined({{1, 256, 2}})), ValueError);
  EXPECT_THROW(decoder.logits(joined({{1, -1, 2}})), ValueError);
  TokenBatch batch = joined({{1, 2, 3}});
  batch.targets[0] = 300;
  EXPECT_THROW(decoder.target_nll(batch), ValueError);
  batch = joined({{1, 2, 3}});
  batch.segment_starts = {0, 2};
  EXPECT_THROW(decoder.logits(batch), ShapeError);
  batch.segment_starts = {0, 3, 3};
  EXPECT_THROW(decoder.logits(batch), ShapeError);
  EXPECT_THROW(decoder.logits(TokenBatch{}), ShapeError);
  KvCache cache = decoder.new_cache(4);
  decoder.next_logits({1, 2, 3}, cache);
  EXPECT_THROW(decoder.next_logits({1, 2}, cache), ValueError);
  EXPECT_THROW(decoder.next_logits({}, cache), ValueError);
}

TEST(Decoder, CheckpointedTrainingWithDropoutAndNoiseGivesTheSameGradients) {
  const auto gradients = [](bool checkpointing) {
    Decoder decoder = load_base("tied");
    decoder.add_adapters({.r = 4, .lora_dropout = 0.3}, 3);
    for (auto& parameter : decoder.trainable_parameters()) {
      const at::NoGradGuard no_graph;
      parameter.add_(0.01);  // B is not zero, so that A has a gradient too
    }
    const auto loss = decoder.loss_sum(joined({{1, 2, 3, 4, 5}, {9, 8, 7}}),
                                       {.training = true,
                                        .gradient_checkpointing = checkpointing,
                                        .neftune_noise_alpha = 5,
                                        .seed = 1,
                                        .draw = 2});
    loss.backward();
    std::vector<torch::Tensor> all;
    for (auto& parameter : decoder.trainable_parameters())
      all.push_back(parameter.grad().flatten());
    return torch::cat(all);
  };
  EXPECT_TRUE(gradients(false).equal(gradients(true)));
}

TEST(Decoder, BadCheckpointsAreRefusedByName) {
  NullLog log;
  EXPECT_THROW(Decoder::load({.model_path = "/nowhere"}, {}, log), IoError);
  EXPECT_THROW(Decoder::load({.model_path = (parity_folder() / "models/plain").string(),
                              .device = DeviceChoice::kCuda},
                             {}, log),
               DeviceError);
}

}  // namespace
}  // namespace qlora::model
