// The real model: SmolLM2-135M out of its GGUF file against transformers over the BF16 weights.
#include <gtest/gtest.h>

#include "model/decoder.h"
#include "tests/model/reference_tensors.h"

namespace qlora::model {
namespace {

using testing::joined;
using testing::load_tensor;
using testing::load_tokens;

/// The GGUF that scripts/quickstart.sh fetches, or nothing.
std::filesystem::path smollm2_file() {
  const auto folder = std::filesystem::path(QLORA_SOURCE_DIR) / "models/smollm2-135m";
  if (!std::filesystem::is_directory(folder)) return {};
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".gguf") return entry.path();
  }
  return {};
}

TEST(Smollm2Parity, Fp32LogitsEqualTransformers) {
  const auto file = smollm2_file();
  if (file.empty()) GTEST_SKIP() << "models/smollm2-135m is not there (scripts/get_model.sh)";
  NullLog log;
  const Decoder decoder = Decoder::load(
      {.model_path = file.string(), .compute_dtype = ComputeDtype::kFloat32, .load_in_4bit = false},
      {}, log);
  EXPECT_EQ(decoder.parameter_count(), 134515008);
  const io::SafetensorsReader reference(testing::parity_folder() / "smollm2_logits.safetensors");
  for (int i = 0; reference.find(fmt::format("tokens_{}", i)); ++i) {
    const auto name = [&](const char* what) { return fmt::format("{}_{}", what, i); };
    const auto rows = load_tensor(reference, name("positions")).to(torch::kInt64);
    const auto logits =
        decoder.logits(joined({load_tokens(reference, name("tokens"))})).index_select(0, rows);
    const auto scale = load_tensor(reference, name("max_abs")).unsqueeze(1);
    const auto worst = [&](const torch::Tensor& actual, const torch::Tensor& expected) {
      return ((actual - expected).abs() / scale).max().item<double>();
    };
    const auto columns = load_tensor(reference, "columns").to(torch::kInt64);
    EXPECT_LT(worst(logits.index_select(1, columns), load_tensor(reference, name("column_logits"))),
              1e-4);
    const auto ids = load_tensor(reference, name("top_ids")).to(torch::kInt64);
    EXPECT_LT(worst(logits.gather(1, ids), load_tensor(reference, name("top_logits"))), 1e-4);
    EXPECT_LT(
        worst(logits.logsumexp(1, true), load_tensor(reference, name("logsumexp")).unsqueeze(1)),
        1e-4);
  }
}

}  // namespace
}  // namespace qlora::model
