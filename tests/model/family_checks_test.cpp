// Checkpoints of the families that do not fit what their config.json says.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "io/safetensors.h"
#include "model/decoder.h"
#include "tests/model/reference_tensors.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::model {
namespace {

namespace fs = std::filesystem;
using testing::message_of;
using testing::TemporaryFolder;
using Json = nlohmann::json;

/// A family's fixture that can be damaged.
class Damaged {
 public:
  explicit Damaged(const std::string& family)
      : from_(testing::parity_folder() / "families" / family),
        reader_(from_),
        config(Json::parse(testing::read_text(from_ / "config.json"))) {
    for (const auto& view : reader_.tensors()) tensors[view.name] = view;
  }

  std::string refusal(bool in_4bit = true) const {
    const TemporaryFolder folder;
    write(folder.path());
    return message_of<Error>([&] { load(folder.path(), in_4bit); });
  }
  void write(const fs::path& folder) const {
    testing::write_text(folder / "config.json", config.dump());
    std::vector<io::TensorView> views;
    for (const auto& [name, view] : tensors) {
      views.push_back(view);
      views.back().name = name;
    }
    io::write_safetensors(folder / "model.safetensors", views, {{"format", "pt"}});
  }
  static void load(const fs::path& folder, bool in_4bit = true) {
    NullLog log;
    Decoder::load({.model_path = folder.string(),
                   .compute_dtype = ComputeDtype::kFloat32,
                   .load_in_4bit = in_4bit},
                  {}, log);
  }

 private:
  fs::path from_;
  io::SafetensorsReader reader_;

 public:
  std::map<std::string, io::TensorView> tensors;
  Json config;
};

TEST(FamilyChecks, AnEmbeddingOfAnotherVocabularyIsRefused) {
  Damaged model("qwen3");
  model.config["vocab_size"] = 100;
  EXPECT_SAYS(
      model.refusal(),
      "tensor 'model.embed_tokens.weight' has shape [96, 32], the config asks for [100, 32]");
}

TEST(FamilyChecks, MissingTensorsAreNamed) {
  for (const auto& [family, tensor] :
       {std::pair{"qwen3", "model.layers.1.self_attn.q_norm.weight"},
        {"gemma2", "model.layers.0.pre_feedforward_layernorm.weight"},
        {"qwen2", "model.layers.0.self_attn.k_proj.bias"},
        {"phi3", "model.layers.1.mlp.gate_up_proj.weight"},
        {"mixtral", "model.layers.1.block_sparse_moe.gate.weight"},
        {"mixtral", "model.layers.0.block_sparse_moe.experts.2.w3.weight"},
        {"qwen3_moe", "model.layers.0.mlp.experts.5.down_proj.weight"}}) {
    Damaged model(family);
    ASSERT_EQ(model.tensors.erase(tensor), 1U) << tensor;
    EXPECT_SAYS(model.refusal(), tensor);
  }
}

/// The bytes of a BF16 tensor with the number at some indices replaced by one of these bits.
std::vector<std::byte> with_bits(const io::TensorView& view, const std::vector<int64_t>& indices,
                                 uint16_t bits) {
  EXPECT_EQ(view.dtype, io::DType::kBF16) << view.name;
  std::vector<std::byte> bytes(view.bytes.begin(), view.bytes.end());
  for (const int64_t index : indices) std::memcpy(&bytes[index * sizeof bits], &bits, sizeof bits);
  return bytes;
}

TEST(FamilyChecks, ANumberThatIsNotFiniteIsNamedWithItsPlace) {
  for (const auto& [tensor, index, place] :
       {std::tuple{"model.norm.weight", 2, "[2]"},
        {"model.layers.1.self_attn.q_norm.weight", 2, "[2]"},
        {"model.embed_tokens.weight", 3 * 32 + 4, "[3, 4]"},
        {"model.layers.0.mlp.up_proj.weight", 3 * 32 + 4, "[3, 4]"}}) {
    for (const auto& [bits, number] :
         {std::pair{0x7FC0, "nan"}, {0x7F80, "inf"}, {0xFF80, "-inf"}}) {
      Damaged model("qwen3");
      io::TensorView& view = model.tensors.at(tensor);
      const auto bytes = with_bits(view, {index}, static_cast<uint16_t>(bits));
      view.bytes = bytes;
      const std::string said = model.refusal(/*in_4bit=*/false);
      EXPECT_SAYS(said, fmt::format("[model] {} of ", tensor));
      EXPECT_SAYS(said, fmt::format(" is {} at {}, which is not finite", number, place));
    }
  }
}

TEST(FamilyChecks, NumbersWhoseSumIsInfiniteAreRead) {
  Damaged model("qwen3");
  io::TensorView& view = model.tensors.at("model.embed_tokens.weight");
  const auto bytes = with_bits(view, {0, 1}, 0x7F7F);  // the largest
  view.bytes = bytes;
  const TemporaryFolder folder;
  model.write(folder.path());
  EXPECT_NO_THROW(Damaged::load(folder.path()));
}

TEST(FamilyChecks, TiedWeightsHaveToBeEqual) {
  Damaged model("qwen3");
  io::TensorView head = model.tensors.at("model.embed_tokens.weight");
  model.tensors["lm_head.weight"] = head;
  const TemporaryFolder folder;
  {  // equal: read as it is
    model.write(folder.path());
    EXPECT_NO_THROW(Damaged::load(folder.path()));
  }
  std::vector<std::byte> other(head.bytes.begin(), head.bytes.end());
  other[7] ^= std::byte{1};
  head.bytes = other;
  model.tensors["lm_head.weight"] = head;
  EXPECT_SAYS(
      model.refusal(),
      "the config ties the output matrix to the embedding, but 'lm_head.weight' holds other "
      "numbers than 'model.embed_tokens.weight'");
}

}  // namespace
}  // namespace qlora::model
