#include "model/block_loader.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "model/decoder.h"
#include "model/nf4_cache.h"
#include "model/rms_norm.h"
#include "model/rope.h"
#include "quant/nf4.h"
#include "tests/model/reference_tensors.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::model {
namespace {

using testing::joined;

const std::vector<std::vector<int32_t>> kSequences = {{1, 7, 3, 9, 12}, {5, 2, 8}};

/// Logits of a model that is read block by block and never held whole.
torch::Tensor streamed_logits(const BlockLoader& loader, const TokenBatch& batch) {
  const RopeTables rope(loader.config());
  const PassLayout layout{.segment_starts = batch.segment_starts,
                          .rope = rope.angles(batch.segment_starts),
                          .compute_dtype = loader.compute_dtype()};
  const torch::Tensor embedding = loader.embedding();
  torch::Tensor h =
      embedding.index_select(0, torch::tensor(batch.tokens, torch::kInt64)).to(torch::kFloat32);
  for (int64_t i = 0; i < loader.block_count(); ++i) h = loader.block(i).forward(h, layout);
  h = rms_norm(h, loader.final_norm(), loader.config().rms_norm_eps, loader.compute_dtype());
  return torch::mm(h, loader.lm_head(embedding).t());
}

class BlockLoaderTest : public ::testing::TestWithParam<const char*> {};

TEST_P(BlockLoaderTest, ABlockAtATimeGivesTheModelsLogits) {
  for (const bool in_4bit : {false, true}) {
    const ModelOptions options{
        .model_path = (testing::parity_folder() / "models" / GetParam()).string(),
        .compute_dtype = ComputeDtype::kFloat32,
        .load_in_4bit = in_4bit};
    const BlockLoader loader(options, {});
    NullLog log;
    const Decoder decoder = Decoder::load(options, {}, log);
    TokenBatch batch = joined(kSequences);
    const torch::Tensor whole = decoder.logits(batch);
    EXPECT_LT(testing::relative_error(streamed_logits(loader, batch), whole), 1e-5) << in_4bit;
    const DecoderBlock block = loader.block(0);
    const auto names = loader.linear_names(0);
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_EQ(block.linears()[i]->name(), names[i]);
      EXPECT_EQ(block.linears()[i]->weight().is_quantized(), in_4bit);
      EXPECT_TRUE(torch::equal(block.linears()[i]->weight().dense_copy(torch::kFloat32),
                               loader.weight(names[i]).dense_copy(torch::kFloat32)));
    }
    EXPECT_EQ(loader.lm_head(loader.embedding()).sizes(), loader.embedding().sizes());
  }
}

/// What starting from an adapter of r 4 and alpha 8 says to a section lora.
std::string starting(lora::LoraOptions section, const std::string& adapter) {
  section.init_adapter = (testing::parity_folder() / "adapters" / adapter).string();
  NullLog log;
  Decoder decoder =
      Decoder::load({.model_path = (testing::parity_folder() / "models/plain").string(),
                     .compute_dtype = ComputeDtype::kFloat32,
                     .load_in_4bit = false},
                    {}, log);
  return testing::refusal_of<ConfigError>([&] { decoder.add_adapters(section, 1); });
}

TEST(AdapterToStartFrom, HasWhatTheSectionSays) {
  EXPECT_EQ(starting({}, "all_linear"), "");  // says nothing: the adapter decides
  EXPECT_EQ(starting({.r = 4, .lora_alpha = 8}, "all_linear"), "");
  EXPECT_SAYS(starting({.r = 8, .lora_alpha = 8}, "all_linear"), "set lora.r=4");
  EXPECT_EQ(starting({.target_modules = {"q_proj", "v_proj"}}, "q_v_only"), "");
  EXPECT_SAYS(starting({.target_modules = {"q_proj"}}, "q_v_only"),
              "lora.target_modules does not select");
  EXPECT_SAYS(starting({.target_modules = {"q_proj", "v_proj", "o_proj"}}, "q_v_only"),
              "lora.target_modules selects");
}

class WarningLog final : public RunLog {
 public:
  void notice(const std::string&) override {}
  void warn(const std::string& text) override { said += text; }
  void live(const std::string&) override {}
  void event(const std::string&, const nlohmann::json&) override {}
  std::string said;
};

TEST(Nf4Cache, APlaceThatCannotBeLookedAtIsAWarning) {
  const testing::TemporaryFolder folder;
  std::filesystem::create_directory_symlink(folder / "loop", folder / "loop");
  WarningLog log;
  EXPECT_FALSE(Nf4Cache((folder / "loop").string(), "hash", {}).read({"a"}, log));
  EXPECT_SAYS(log.said, "Too many levels of symbolic links");
  WarningLog quiet;
  EXPECT_FALSE(Nf4Cache((folder / "none").string(), "hash", {}).read({"a"}, quiet));
  EXPECT_EQ(quiet.said, "");
}

INSTANTIATE_TEST_SUITE_P(Models, BlockLoaderTest, ::testing::Values("blocks_of_64", "mha_odd"));

TEST(BlockLoaderTest, ABlockThatIsNotThereIsRefused) {
  const BlockLoader loader({.model_path = (testing::parity_folder() / "models/mha_odd").string()},
                           {});
  EXPECT_THROW(loader.block(loader.block_count()), ValueError);
  EXPECT_THROW(loader.block_without_weights(-1), ValueError);
}

}  // namespace
}  // namespace qlora::model
