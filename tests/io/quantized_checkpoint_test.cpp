// Folders of quantized models: what has to be there, and what happens where it is not.
#include <nlohmann/json.hpp>

#include "io/checkpoint.h"
#include "tests/io/test_files.h"

namespace qlora::io {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Part {
  std::string name;  // behind the module's
  DType type;
  std::vector<int64_t> shape;
};

/// The parts of a linear [n, k]; groups of 32 where the form has groups.
using PartsOf = std::vector<Part> (*)(int64_t n, int64_t k);

struct Case {
  const char* name;
  const char* config;
  PartsOf parts;
};

constexpr const char* kCompressed =
    R"({"quant_method": "compressed-tensors", "format": "%s", "ignore": ["lm_head"],
        "config_groups": {"g": {"targets": ["Linear"], "weights": {"num_bits": %d, "type": "%s",
        "strategy": "%s", "group_size": 32}, "input_activations": %s}}})";

std::string compressed(const char* format, int bits, const char* type, const char* strategy,
                       const char* inputs) {
  char text[1000];
  std::snprintf(text, sizeof(text), kCompressed, format, bits, type, strategy, inputs);
  return text;
}

const std::string kW4 = compressed("pack-quantized", 4, "int", "group", "null");
const std::string kW8 = compressed(
    "int-quantized", 8, "int", "channel",
    R"({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true, "symmetric": true})");
const std::string kF8 =
    compressed("float-quantized", 8, "float", "tensor",
               R"({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false})");

const Case kCases[] = {
    {"gptq3",
     R"({"quant_method": "gptq", "bits": 3, "group_size": 32, "desc_act": true, "sym": true})",
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"qweight", DType::kI32, {k * 3 / 32, n}},
               {"qzeros", DType::kI32, {k / 32, n * 3 / 32}},
               {"scales", DType::kF16, {k / 32, n}},
               {"g_idx", DType::kI32, {k}}};
     }},
    {"awq", R"({"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"})",
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"qweight", DType::kI32, {k, n / 8}},
               {"qzeros", DType::kI32, {k / 32, n / 8}},
               {"scales", DType::kBF16, {k / 32, n}}};
     }},
    {"w4a16", kW4.c_str(),
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"weight_packed", DType::kI32, {n, k / 8}},
               {"weight_shape", DType::kI64, {2}},
               {"weight_scale", DType::kF16, {n, k / 32}}};
     }},
    {"w8a8", kW8.c_str(),
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"weight", DType::kI8, {n, k}}, {"weight_scale", DType::kF32, {n, 1}}};
     }},
    {"fp8", kF8.c_str(),
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"weight", DType::kF8E4M3, {n, k}},
               {"weight_scale", DType::kF16, {1}},
               {"input_scale", DType::kF16, {1}}};
     }},
    {"nf4",
     R"({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"})",
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"weight", DType::kU8, {n * k / 2, 1}},
               {"weight.absmax", DType::kF32, {n * k / 64}},
               {"weight.quant_map", DType::kF32, {16}},
               {"weight.quant_state.bitsandbytes__nf4", DType::kU8, {8}}};
     }},
    {"int8", R"({"quant_method": "bitsandbytes", "load_in_8bit": true})",
     [](int64_t n, int64_t k) -> std::vector<Part> {
       return {{"weight", DType::kI8, {n, k}}, {"SCB", DType::kF32, {n}}};
     }},
};

struct Linear {
  const char* name;
  int64_t n, k;
};

// One block: C 64, H 2, one head of keys and values, D 32, F 96.
constexpr Linear kLinears[] = {{"self_attn.q_proj", 64, 64}, {"self_attn.k_proj", 32, 64},
                               {"self_attn.v_proj", 32, 64}, {"self_attn.o_proj", 64, 64},
                               {"mlp.gate_proj", 96, 64},    {"mlp.up_proj", 96, 64},
                               {"mlp.down_proj", 64, 96}};
const std::string kUp = "model.layers.0.mlp.up_proj";

class QuantizedFolder : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    config_ = {{"architectures", {"LlamaForCausalLM"}},
               {"model_type", "llama"},
               {"vocab_size", 16},
               {"hidden_size", 64},
               {"intermediate_size", 96},
               {"num_hidden_layers", 1},
               {"num_attention_heads", 2},
               {"num_key_value_heads", 1},
               {"head_dim", 32},
               {"tie_word_embeddings", false},
               {"quantization_config", Json::parse(GetParam().config)}};
    add("model.embed_tokens.weight", DType::kF16, {16, 64});
    add("model.norm.weight", DType::kF16, {64});
    add("lm_head.weight", DType::kF16, {16, 64});
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      add(std::string("model.layers.0.") + norm + ".weight", DType::kF16, {64});
    }
    for (const Linear& linear : kLinears) {
      for (const Part& part : GetParam().parts(linear.n, linear.k)) {
        const std::string name = std::string("model.layers.0.") + linear.name + "." + part.name;
        add(name, part.type, part.shape);
        if (part.name == "weight_shape") {
          const int64_t sizes[] = {linear.n, linear.k};
          std::memcpy(tensors_[name].second.data(), sizes, sizeof(sizes));
        }
      }
    }
  }

  void add(const std::string& name, DType type, std::vector<int64_t> shape) {
    int64_t count = dtype_bytes(type);
    for (const int64_t size : shape) count *= size;
    tensors_[name] = {TensorView{name, type, std::move(shape), {}},
                      std::vector<std::byte>(static_cast<size_t>(count))};
  }

  fs::path write(const char* file = "model.safetensors") {
    folder_.put("config.json", config_.dump());
    std::vector<TensorView> views;
    for (auto& [name, tensor] : tensors_) {
      tensor.first.bytes = tensor.second;
      views.push_back(tensor.first);
    }
    write_safetensors(folder_ / file, views, {{"format", "pt"}});
    return folder_.path();
  }

  TemporaryFolder folder_;
  Json config_;
  std::map<std::string, std::pair<TensorView, std::vector<std::byte>>> tensors_;
};

TEST_P(QuantizedFolder, HandsOutEveryPartOfEveryLinear) {
  const Checkpoint checkpoint(write());
  ASSERT_TRUE(checkpoint.quantization());
  for (const Linear& linear : kLinears) {
    const std::string module = std::string("model.layers.0.") + linear.name;
    EXPECT_TRUE(checkpoint.is_quantized(module + ".weight"));
    EXPECT_EQ(checkpoint.shape(module + ".weight"), (std::vector<int64_t>{linear.n, linear.k}));
    const QuantizedModule& m = checkpoint.quantized_module(module);
    const auto parts = GetParam().parts(linear.n, linear.k);
    ASSERT_EQ(m.parts.size(), parts.size());
    int64_t bytes = 0;
    for (const Part& part : parts) {
      ASSERT_TRUE(m.parts.contains(part.name)) << part.name;
      EXPECT_EQ(m.parts.at(part.name)->shape, part.shape);
      bytes += static_cast<int64_t>(m.parts.at(part.name)->bytes.size());
    }
    EXPECT_EQ(m.bytes(), bytes);
    checkpoint.release(module + ".weight");
  }
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}) {
    EXPECT_FALSE(checkpoint.is_quantized(name));
    std::vector<float> out(16 * 64, 1.0f);
    checkpoint.tensor_f32(name, out.data());
    EXPECT_EQ(out[0], 0.0f);
  }
  std::vector<float> out(96 * 64);
  EXPECT_MESSAGE(ValueError, checkpoint.tensor_f32(kUp + ".weight", out.data()), "is packed");
  EXPECT_MESSAGE(ValueError, checkpoint.quantized_module("lm_head"), "is not quantized");
  EXPECT_MESSAGE(ValueError, checkpoint.quantized_module("none"), "no tensor 'none.weight'");
  EXPECT_MESSAGE(ValueError, checkpoint.is_quantized("none"), "no tensor 'none'");
  EXPECT_FALSE(checkpoint.source_hash().empty());
}

TEST_P(QuantizedFolder, AMissingMistypedOrMisshapenPartIsRefusedByName) {
  for (const Part& part : GetParam().parts(96, 64)) {
    const std::string name = kUp + "." + part.name;
    const auto kept = tensors_.at(name);
    tensors_.erase(name);
    if (part.name != "g_idx") {  // which files may leave out
      EXPECT_MESSAGE(FormatError, Checkpoint{write()}, name);
    } else {
      EXPECT_EQ(Checkpoint(write()).quantized_module(kUp).parts.count("g_idx"), 0u);
    }
    const bool is_checked_by_its_reader = part.name.starts_with("weight.");
    auto shape = part.shape;
    shape.back() += 1;
    add(name, part.type, shape);
    if (!is_checked_by_its_reader) {
      EXPECT_MESSAGE(ShapeError, Checkpoint{write()}, name);
    }
    add(name, DType::kBool, part.shape);
    if (!is_checked_by_its_reader && std::string(GetParam().name) != "nf4") {
      EXPECT_MESSAGE(FormatError, Checkpoint{write()}, "has type BOOL");
    }
    tensors_[name] = kept;
  }
}

TEST_P(QuantizedFolder, AModuleLeftIn16BitsIsPlain) {
  for (const Part& part : GetParam().parts(96, 64)) tensors_.erase(kUp + "." + part.name);
  add(kUp + ".weight", DType::kBF16, {96, 64});
  const Checkpoint checkpoint(write());
  EXPECT_FALSE(checkpoint.is_quantized(kUp + ".weight"));
  EXPECT_TRUE(checkpoint.is_quantized("model.layers.0.mlp.gate_proj.weight"));
  add(kUp + ".weight", DType::kBF16, {96, 63});
  EXPECT_MESSAGE(ShapeError, Checkpoint{write()}, "[96, 63]");
}

TEST_P(QuantizedFolder, ScalesOfEnginesAndBiasesOfZerosAreLeftAlone) {
  add("model.layers.0.self_attn.k_scale", DType::kF32, {1});
  add(kUp + ".input_scale", DType::kF16, {1});
  add(kUp + ".bias", DType::kF16, {96});
  EXPECT_NO_THROW(Checkpoint{write()});
  tensors_[kUp + ".bias"].second[7] = std::byte{1};
  EXPECT_MESSAGE(FormatError, Checkpoint{write()}, "the first is '" + kUp + ".bias'");
  tensors_.erase(kUp + ".bias");
  for (const Part& part : GetParam().parts(96, 64)) {
    add("model.layers.1.mlp.up_proj." + part.name, part.type, part.shape);
  }
  EXPECT_MESSAGE(FormatError, Checkpoint{write()}, "'model.layers.1.mlp.up_proj.");
}

TEST_P(QuantizedFolder, AnotherFileNameIsFoundWhereItIsTheOnlyOne) {
  const fs::path folder = write("gptq_model-4bit-128g.safetensors");
  EXPECT_TRUE(Checkpoint(folder).is_quantized(kUp + ".weight"));
  folder_.put("other.safetensors", "");
  EXPECT_MESSAGE(IoError, Checkpoint{folder}, "model.safetensors");
}

INSTANTIATE_TEST_SUITE_P(Forms, QuantizedFolder, ::testing::ValuesIn(kCases),
                         [](const auto& c) { return std::string(c.param.name); });

using Compressed = QuantizedFolder;

TEST_P(Compressed, AWeightThatTheConfigLeavesOutMustBePlain) {
  config_["quantization_config"]["ignore"] = {"lm_head", "re:.*up_proj"};
  EXPECT_MESSAGE(FormatError, Checkpoint{write()}, kUp);
}
TEST_P(Compressed, ShapesInsideTensorsCount) {
  const std::string name = kUp + ".weight_shape";
  if (!tensors_.contains(name)) return;
  const int64_t sizes[] = {96, 32};
  std::memcpy(tensors_[name].second.data(), sizes, sizeof(sizes));
  EXPECT_MESSAGE(ShapeError, Checkpoint{write()}, "holds [96, 32]");
}

INSTANTIATE_TEST_SUITE_P(Groups, Compressed, ::testing::Values(kCases[2], kCases[3], kCases[4]),
                         [](const auto& c) { return std::string(c.param.name); });

}  // namespace
}  // namespace qlora::io
