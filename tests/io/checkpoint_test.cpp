#include "io/checkpoint.h"

#include <nlohmann/json.hpp>

#include "core/parallel.h"
#include "io/float_convert.h"
#include "io/gguf_config.h"
#include "io/strict_json.h"
#include "tests/io/gguf_builder.h"

namespace qlora::io {
namespace {
namespace fs = std::filesystem;

int64_t size_of(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t dimension : shape) size *= dimension;
  return size;
}

std::vector<float> whole(const Checkpoint& checkpoint, const std::string& name) {
  std::vector<float> out(static_cast<size_t>(size_of(checkpoint.shape(name))));
  checkpoint.tensor_f32(name, out.data());
  return out;
}

const fs::path kGguf = fixture("gguf/tiny_llama.gguf");
const fs::path kFolder = fixture("gguf/tiny_llama");

TEST(Checkpoint, GgufAndFolderHoldTheSameModel) {
  const Checkpoint gguf(kGguf), folder(kFolder);
  EXPECT_NE(gguf.gguf(), nullptr);
  EXPECT_EQ(folder.gguf(), nullptr);
  EXPECT_EQ(gguf.names(), folder.names());
  EXPECT_EQ(gguf.names().front(), "model.embed_tokens.weight");
  EXPECT_EQ(gguf.names().back(), "lm_head.weight");
  for (const std::string& name : folder.names()) {
    EXPECT_EQ(gguf.shape(name), folder.shape(name)) << name;
    EXPECT_EQ(whole(gguf, name), whole(folder, name)) << name;
    gguf.release(name);
    folder.release(name);
    EXPECT_EQ(whole(gguf, name), whole(folder, name)) << name;
  }
}

TEST(Checkpoint, RowsAreThoseOfTheWhole) {
  for (const fs::path& path : {kGguf, kFolder}) {
    const Checkpoint checkpoint(path);
    for (const std::string& name : checkpoint.names()) {
      const std::vector<float> all = whole(checkpoint, name);
      const auto& shape = checkpoint.shape(name);
      const int64_t rows = shape.size() == 1 ? 1 : shape[0], columns = shape.back();
      std::vector<float> out(all.size());
      for (int64_t row = 0; row < rows; row += 3) {
        const int64_t count = std::min<int64_t>(3, rows - row);
        checkpoint.tensor_f32_rows(name, row, count, out.data() + row * columns);
      }
      EXPECT_EQ(out, all) << name;
      EXPECT_NO_THROW(checkpoint.tensor_f32_rows(name, rows, 0, out.data()));
      for (const auto& [begin, count] :
           {std::pair<int64_t, int64_t>{0, rows + 1}, {rows, 1}, {-1, 1}, {0, -1}}) {
        EXPECT_MESSAGE(ValueError, checkpoint.tensor_f32_rows(name, begin, count, out.data()),
                       "on asked for; it has");
      }
    }
  }
}

TEST(Checkpoint, ThreadsChangeNothing) {
  const Checkpoint checkpoint(kGguf);
  const int threads = thread_count();
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  set_thread_count(1);
  const auto one = whole(checkpoint, name);
  const std::string hash = checkpoint.source_hash();
  set_thread_count(3);
  EXPECT_EQ(whole(checkpoint, name), one);
  EXPECT_EQ(checkpoint.source_hash(), hash);
  set_thread_count(threads);
}

TEST(Checkpoint, RoundingIsAChoice) {
  const Checkpoint rounded(kGguf), exact(kGguf, GgufRounding::kNone);
  const std::string name =
      "model.layers.1.mlp.down_proj.weight";  // Q8_0: not all values are bfloat16
  std::vector<float> a = whole(rounded, name), b = whole(exact, name);
  EXPECT_NE(a, b);
  for (float& value : b) value = bf16_to_f32(f32_to_bf16(value));
  EXPECT_EQ(a, b);
  EXPECT_NE(rounded.source_hash(), exact.source_hash());
}

TEST(Checkpoint, NamesAreChecked) {
  const Checkpoint checkpoint(kGguf);
  EXPECT_TRUE(checkpoint.has("model.norm.weight"));
  EXPECT_FALSE(checkpoint.has("model.norm.bias"));
  EXPECT_MESSAGE(ValueError, checkpoint.shape("model.norms.weight"),
                 "no tensor 'model.norms.weight'; did you mean 'model.norm.weight'?");
  EXPECT_MESSAGE(ValueError, checkpoint.release("x"), "the model has no tensor 'x'");
}

/// A copy of the folder fixture that a test may damage.
class Folder : public ::testing::Test {
 protected:
  Folder() { fs::copy(kFolder, model_, fs::copy_options::recursive); }
  void change_config(const nlohmann::json& changes) {
    auto config = parse_strict_json(read_file(model_ / "config.json"), "config.json");
    config.update(changes);
    folder_.put("model/config.json", config.dump());
  }
  /// Rewrites the shards into one file, with `change` applied to the list of tensors.
  template <class Change>
  void rewrite(const Change& change) {
    const SafetensorsReader reader(kFolder);
    std::vector<TensorView> tensors = reader.tensors();
    change(tensors);
    for (const auto& item : fs::directory_iterator(kFolder)) {
      if (item.path().filename() != "config.json") fs::remove(model_ / item.path().filename());
    }
    write_safetensors(model_ / "model.safetensors", tensors);
  }
  template <class Kind>
  std::string refusal() {
    return message_of<Kind>([&] { Checkpoint checkpoint(model_); });
  }
  TemporaryFolder folder_;
  fs::path model_ = folder_ / "model";
};

#define EXPECT_REFUSED(Kind, part) \
  EXPECT_NE(refusal<Kind>().find(part), std::string::npos) << refusal<Kind>()

TEST_F(Folder, ShapesAreHeldAgainstTheConfig) {
  change_config({{"vocab_size", 49}});
  EXPECT_REFUSED(
      ShapeError,
      "tensor 'model.embed_tokens.weight' has shape [48, 64], the config asks for [49, 64]");
  change_config({{"vocab_size", 48}, {"num_key_value_heads", 4}});
  EXPECT_REFUSED(ShapeError,
                 "tensor 'model.layers.0.self_attn.k_proj.weight' has shape [32, 64], the config "
                 "asks for [64");
  change_config({{"num_key_value_heads", 2}, {"num_hidden_layers", 3}});
  EXPECT_REFUSED(FormatError, "no tensor 'model.layers.2.input_layernorm.weight'");
  change_config({{"num_hidden_layers", 2}, {"mlp_bias", true}});
  EXPECT_REFUSED(FormatError, "no tensor 'model.layers.0.mlp.gate_proj.bias'");
}

TEST_F(Folder, MissingAndForeignTensors) {
  rewrite([](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) { return t.name == "model.norm.weight"; });
  });
  EXPECT_REFUSED(FormatError, "no tensor 'model.norm.weight'");
  rewrite([](auto& tensors) { tensors.push_back({"rotary_emb.inv_freq", DType::kF32, {0}, {}}); });
  EXPECT_NO_THROW(Checkpoint{model_});  // what the model does not use is no harm
  rewrite([](auto& tensors) {
    for (TensorView& tensor : tensors) {
      if (tensor.name == "model.norm.weight") tensor.dtype = DType::kI16;
    }
  });
  EXPECT_REFUSED(FormatError,
                 "tensor 'model.norm.weight' has type I16, weights are of a float type");
}

TEST_F(Folder, WeightsThatTheConfigHasNoPlaceForAreRefused) {
  change_config({{"num_hidden_layers", 1}});
  EXPECT_REFUSED(FormatError, "the config has no place for 13 of 29 tensors");
  EXPECT_REFUSED(FormatError, "the first is 'model.layers.1.input_layernorm.weight'");
  change_config({{"num_hidden_layers", 2}, {"attention_bias", false}});
  EXPECT_REFUSED(FormatError,
                 "8 of 29 tensors, the first is 'model.layers.0.self_attn.k_proj.bias'");
  change_config({{"attention_bias", true}});
  EXPECT_NO_THROW(Checkpoint{model_});
  for (const char* name :
       {"model.layers.0.mlp.up_proj.bias", "foo.bar", "vision_tower.patch_embedding.weight",
        "model.layers.0.mlp.up_proj.g_idx", "model.layers.0.self_attn.k_scale"}) {
    rewrite([&](auto& tensors) { tensors.push_back({name, DType::kF32, {0}, {}}); });
    EXPECT_REFUSED(FormatError, "no place for 1 of 30 tensors, the first is '" + std::string(name));
  }
}

TEST_F(Folder, BuffersOfOlderVersionsAreLeftAlone) {
  rewrite([](auto& tensors) {
    for (const char* name : {"model.layers.0.self_attn.rotary_emb.inv_freq",
                             "model.layers.1.attention.masked_bias", "model.position_ids"}) {
      tensors.push_back({name, DType::kF32, {0}, {}});
    }
  });
  EXPECT_NO_THROW(Checkpoint{model_});
}

TEST_F(Folder, TiedEmbeddingsNeedNoHead) {
  change_config({{"tie_word_embeddings", true}});
  EXPECT_FALSE(Checkpoint(model_).has("lm_head.weight"));
  rewrite([](auto& tensors) {
    std::erase_if(tensors, [](const auto& t) { return t.name == "lm_head.weight"; });
  });
  EXPECT_NO_THROW(Checkpoint{model_});
  change_config({{"tie_word_embeddings", false}});
  EXPECT_REFUSED(FormatError, "no tensor 'lm_head.weight'");
}

TEST_F(Folder, UnknownQuantizationIsRefusedByMethod) {
  change_config({{"quantization_config", {{"quant_method", "quanto"}}}});
  EXPECT_REFUSED(FormatError, "the weights are quantized ('quanto'); gptq, awq");
  change_config({{"quantization_config", {{"bits", 4}}}});
  EXPECT_REFUSED(FormatError, "the weights are quantized (unknown method)");
}

TEST_F(Folder, EveryByteCountsInTheHash) {
  const std::string hash = Checkpoint(model_).source_hash();
  EXPECT_EQ(Checkpoint(kFolder).source_hash(), hash);
  change_config({{"rope_theta", 60000.0}});
  EXPECT_NE(Checkpoint(model_).source_hash(), hash);
  fs::copy(kFolder / "config.json", model_ / "config.json", fs::copy_options::overwrite_existing);
  EXPECT_EQ(Checkpoint(model_).source_hash(), hash);
  const std::string shard = "model/model-00002-of-00002.safetensors";
  std::string content = read_file(folder_ / shard);
  content.back() ^= 1;
  folder_.put(shard, content);
  EXPECT_NE(Checkpoint(model_).source_hash(), hash);
}

TEST_F(Folder, PathsThatAreNoModel) {
  EXPECT_MESSAGE(IoError, Checkpoint(folder_ / "none"), "none does not exist");
  EXPECT_MESSAGE(IoError, Checkpoint("meta-llama/Llama-2-7b"), "nothing is downloaded; give the");
  EXPECT_MESSAGE(IoError, Checkpoint(std::string(300, 'x')), "File name too long");
  const fs::path weights = folder_.put("model.safetensors", "");
  EXPECT_MESSAGE(FormatError, Checkpoint{weights}, "give the folder that holds both");
  const TemporaryFolder empty;
  EXPECT_MESSAGE(IoError, Checkpoint(empty.path()), "holds no config.json and 0 GGUF files");
  fs::copy(kGguf, empty / "a.gguf");
  EXPECT_EQ(Checkpoint(empty.path()).path(), empty / "a.gguf");
  EXPECT_EQ(Checkpoint(empty.path()).source_hash(), Checkpoint(kGguf).source_hash());
  fs::copy(kGguf, empty / "b.gguf");
  EXPECT_MESSAGE(IoError, Checkpoint(empty.path()), "holds no config.json and 2 GGUF files");
  fs::remove(model_ / "model.safetensors.index.json");
  EXPECT_REFUSED(IoError, "holds none of model.safetensors.index.json");
}

/// A model of one block with one kind of damage.
GgufBuilder model(const std::string& odd_name, const std::vector<uint64_t>& odd_shape,
                  uint32_t odd_type = 0) {
  GgufBuilder file;
  file.text("general.architecture", "llama")
      .u32("llama.embedding_length", 32)
      .u32("llama.feed_forward_length", 32);
  file.u32("llama.block_count", 1)
      .u32("llama.attention.head_count", 2)
      .u32("llama.context_length", 64);
  file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).u32("llama.vocab_size", 32);
  for (const char* name : {"token_embd", "blk.0.attn_norm", "blk.0.attn_q", "blk.0.attn_k",
                           "blk.0.attn_v", "blk.0.attn_output", "blk.0.ffn_norm", "blk.0.ffn_gate",
                           "blk.0.ffn_up", "blk.0.ffn_down", "output_norm"}) {
    const std::string full = std::string(name) + ".weight";
    const bool norm = full.find("norm") != std::string::npos;
    std::vector<uint64_t> shape = norm ? std::vector<uint64_t>{32} : std::vector<uint64_t>{32, 32};
    uint32_t type = 0;
    if (full == odd_name) {
      if (odd_shape.empty()) continue;
      shape = odd_shape;
      type = odd_type;
    }
    const GgmlTypeInfo& info = *find_ggml_type(type);
    uint64_t count = 1;
    for (const uint64_t dimension : shape) count *= dimension;
    file.tensor(full, shape, type,
                std::string(count / info.block_elements * info.block_bytes, '\1'));
  }
  return file;
}

TEST(CheckpointGguf, TensorsAreHeldAgainstTheMetadata) {
  const TemporaryFolder folder;
  const auto path = folder / "a.gguf";
  const auto put = [&](const GgufBuilder& file) { folder.put("a.gguf", file.build()); };
  put(model("", {}));
  EXPECT_NO_THROW(Checkpoint{path});
  put(model("blk.0.ffn_up.weight", {}));
  EXPECT_MESSAGE(FormatError, Checkpoint{path}, "tensor 'blk.0.ffn_up.weight' is missing");
  put(model("blk.0.ffn_up.weight", {32, 64}));
  EXPECT_MESSAGE(ShapeError, Checkpoint{path},
                 "'blk.0.ffn_up.weight' has shape [64, 32], the config asks for [32, 32]");
  put(model("output_norm.weight", {32, 1}));
  EXPECT_MESSAGE(ShapeError, Checkpoint{path},
                 "'output_norm.weight' has shape [1, 32], the config asks for [32]");
  put(model("blk.0.ffn_up.weight", {32, 32}, 20));
  EXPECT_MESSAGE(FormatError, Checkpoint{path},
                 "tensor 'blk.0.ffn_up.weight' has type IQ4_NL, which is not read");
  put(model("output_norm.weight", {32}, 8));
  EXPECT_MESSAGE(FormatError, Checkpoint{path},
                 "tensor 'output_norm.weight' has type Q8_0, which is not read there");
}

}  // namespace
}  // namespace qlora::io
