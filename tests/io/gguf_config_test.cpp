#include "io/gguf_config.h"

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numbers>

#include "io/tensor_layout.h"
#include "tests/io/gguf_builder.h"

namespace qlora::io {
namespace {

/// A sound little model without its tensors: head width 16.
GgufBuilder metadata() {
  GgufBuilder file;
  file.text("general.architecture", "llama")
      .u32("llama.embedding_length", 64)
      .u32("llama.feed_forward_length", 96);
  file.u32("llama.block_count", 1)
      .u32("llama.attention.head_count", 4)
      .u32("llama.attention.head_count_kv", 2);
  file.u32("llama.context_length", 4096).f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  file.u32("llama.vocab_size", 100).f32("llama.rope.freq_base", 10000.0f);
  return file;
}

class GgufLlama : public ::testing::Test {
 protected:
  HfConfig config_of(const GgufBuilder& file) {
    return gguf_config(GgufReader(folder_.put("a.gguf", file.build())));
  }
  template <class Kind = FormatError>
  std::string refusal(const GgufBuilder& file) {
    return message_of<Kind>([&] { config_of(file); });
  }
  TemporaryFolder folder_;
};

#define EXPECT_REFUSED(file, part) \
  EXPECT_NE(refusal(file).find(part), std::string::npos) << refusal(file)

TEST_F(GgufLlama, ReadsTheConfig) {
  const HfConfig config = gguf_config(GgufReader(fixture("gguf/tiny_llama.gguf")));
  HfConfig expected = read_hf_config(fixture("gguf/tiny_llama/config.json"));
  EXPECT_NEAR(config.rms_norm_eps, expected.rms_norm_eps, 1e-12);  // stored as float
  expected.rms_norm_eps = config.rms_norm_eps;
  EXPECT_EQ(to_json(config), to_json(expected));
}

TEST_F(GgufLlama, FillsInWhatIsAbsent) {
  GgufBuilder file;
  file.text("general.architecture", "llama")
      .u32("llama.embedding_length", 64)
      .u32("llama.feed_forward_length", 96);
  file.u32("llama.block_count", 1)
      .u32("llama.attention.head_count", 4)
      .u32("llama.context_length", 77);
  file.f32("llama.attention.layer_norm_rms_epsilon", 1e-6f).floats("token_embd.weight", {64, 50});
  const HfConfig config = config_of(file);
  EXPECT_EQ(config.vocab_size, 50);  // rows of the embedding
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.rope.theta, 10000.0);
  EXPECT_EQ(config.max_position_embeddings, 77);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.arch.qkv_bias);
  EXPECT_FALSE(config.arch.mlp_bias);
  EXPECT_TRUE(config.eos_token_ids.empty());
  EXPECT_EQ(config.bos_token_id, std::nullopt);
}

TEST_F(GgufLlama, RefusesWhatIsNotLlama) {
  EXPECT_REFUSED(GgufBuilder().u32("x", 1), "metadata key 'general.architecture' is missing");
  EXPECT_REFUSED(GgufBuilder().text("general.architecture", "falcon"),
                 "general.architecture is 'falcon'; known are llama, qwen2, qwen3, gemma2, "
                 "gemma3, phi3, smollm3");
  EXPECT_REFUSED(GgufBuilder().text("general.architecture", "llama"),
                 "metadata key 'llama.vocab_size' is missing");
  EXPECT_REFUSED(metadata().u32("llama.expert_count", 8),
                 "'llama.expert_count' is 8; models that use it are not read");
  EXPECT_REFUSED(metadata().f32("llama.logit_scale", 2.0f), "'llama.logit_scale' is 2");
  EXPECT_REFUSED(metadata().f32("llama.rope.scaling.attn_factor", 1.5f),
                 "'llama.rope.scaling.attn_factor' is 1.5");
  EXPECT_NO_THROW(config_of(metadata().u32("llama.expert_count", 0)));
  EXPECT_REFUSED(metadata().floats("blk.0.ffn_gate_inp.weight", {4}),
                 "tensor 'blk.0.ffn_gate_inp.weight' is none of");
  EXPECT_REFUSED(metadata().floats("blk.1.attn_norm.weight", {64}),
                 "is none of a model of this architecture with 1 blocks");
}

TEST_F(GgufLlama, ValuesAreChecked) {
  const auto with = [](const std::string& key, uint32_t value) {
    GgufBuilder file;
    file.text("general.architecture", "llama");
    const std::pair<std::string, uint32_t> keys[] = {
        {"llama.embedding_length", 64},    {"llama.feed_forward_length", 96},
        {"llama.block_count", 1},          {"llama.context_length", 4096},
        {"llama.attention.head_count", 4}, {"llama.attention.head_count_kv", 2},
        {"llama.vocab_size", 100}};
    for (const auto& [name, sound] : keys) file.u32(name, name == key ? value : sound);
    return file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  };
  EXPECT_REFUSED(with("llama.attention.head_count", 5),
                 "llama.embedding_length is 64, a multiple of llama.attention.head_count (5) is");
  EXPECT_REFUSED(with("llama.attention.head_count", 0),
                 "llama.embedding_length is 64, a multiple of llama.attention.head_count (0) is");
  EXPECT_REFUSED(with("llama.attention.head_count_kv", 3),
                 "a.gguf: llama.attention.head_count_kv is 3, a divisor of "
                 "llama.attention.head_count (4) is allowed");
  EXPECT_REFUSED(with("llama.vocab_size", 0), "a.gguf: llama.vocab_size is 0, 1 to");
  EXPECT_REFUSED(with("llama.block_count", ~0u), "llama.block_count is 4294967295, 1 to 4096");
  EXPECT_REFUSED(with("llama.embedding_length", 4 << 20),
                 "llama.embedding_length is 4194304, 1 to");
  EXPECT_REFUSED(with("llama.embedding_length", 60),
                 "llama.embedding_length / llama.attention.head_count is 15, an even number");
  EXPECT_REFUSED(with("llama.feed_forward_length", 0), "llama.feed_forward_length is 0, 1 to");
  EXPECT_REFUSED(with("llama.context_length", 0), "llama.context_length is 0");
  EXPECT_REFUSED(metadata().u32("llama.rope.dimension_count", 8),
                 "llama.rope.dimension_count is 8, the head width 16 is allowed");
  EXPECT_REFUSED(metadata().u32("llama.attention.value_length", 32),
                 "llama.attention.value_length is 32");
  EXPECT_REFUSED(metadata().u32("llama.attention.key_length", 7),
                 "llama.attention.key_length is 7, an even number");
  EXPECT_REFUSED(metadata().u32("tokenizer.ggml.padding_token_id", 100),
                 "tokenizer.ggml.padding_token_id is 100");
  EXPECT_REFUSED(metadata().u32("tokenizer.ggml.eos_token_id", 100),
                 "a.gguf: tokenizer.ggml.eos_token_id is 100, below llama.vocab_size (100)");
  EXPECT_EQ(config_of(metadata().u32("llama.attention.key_length", 32)).head_dim, 32);
}

TEST_F(GgufLlama, ReadsLinearAndYarnScaling) {
  GgufBuilder linear = metadata();
  linear.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0f);
  const RopeParameters a = config_of(linear).rope;
  EXPECT_EQ(a.type, RopeType::kLinear);
  EXPECT_EQ(a.factor, 4.0);
  GgufBuilder yarn = metadata();
  yarn.text("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 2.0f);
  yarn.u32("llama.rope.scaling.original_context_length", 2048)
      .f32("llama.rope.scaling.yarn_beta_fast", 16.0f);
  const RopeParameters b = config_of(yarn).rope;
  EXPECT_EQ(b.type, RopeType::kYarn);
  EXPECT_EQ(b.factor, 2.0);
  EXPECT_EQ(b.original_max_position_embeddings, 2048);
  EXPECT_EQ(b.beta_fast, 16.0);
  EXPECT_EQ(b.beta_slow, 1.0);
  EXPECT_EQ(config_of(metadata().text("llama.rope.scaling.type", "none")).rope.type,
            RopeType::kDefault);
  EXPECT_REFUSED(metadata().text("llama.rope.scaling.type", "longrope"),
                 "is 'longrope'; none, linear and yarn are");
  EXPECT_REFUSED(metadata().text("llama.rope.scaling.type", "linear"),
                 "'llama.rope.scaling.factor' is missing");
  EXPECT_REFUSED(
      metadata().text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 0.5f),
      "a.gguf: llama.rope.scaling.factor is 0.5");
  EXPECT_REFUSED(metadata()
                     .text("llama.rope.scaling.type", "yarn")
                     .f32("llama.rope.scaling.factor", 2)
                     .u32("llama.rope.scaling.original_context_length", 0),
                 "a.gguf: llama.rope.scaling.original_context_length is 0");
}

/// llama.cpp's converter, in double and rounded to float as it writes them.
std::vector<float> factors_of(double theta, int64_t head_dim, double factor, double low,
                              double high, double length) {
  std::vector<float> factors;
  for (int64_t i = 0; i < head_dim; i += 2) {
    const double wavelength =
        2 * std::numbers::pi *
        std::pow(theta, static_cast<double>(i) / static_cast<double>(head_dim));
    if (wavelength < length / high) {
      factors.push_back(1);
    } else if (wavelength > length / low) {
      factors.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (length / wavelength - low) / (high - low);
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return factors;
}

TEST(Llama3Factors, FindsTheParametersAgain) {
  struct Case {
    double theta, factor, low, high, length;
    int64_t head_dim;
  };
  for (const Case& c :
       {Case{5e5, 8, 1, 4, 8192, 128}, Case{5e5, 32, 1, 4, 8192, 64}, Case{5e5, 8, 1, 4, 8192, 64},
        Case{1e6, 16, 2, 8, 4096, 128}, Case{5e5, 4, 1, 3, 5000, 256}}) {
    const auto rope = llama3_from_factors(
        factors_of(c.theta, c.head_dim, c.factor, c.low, c.high, c.length), c.theta);
    ASSERT_TRUE(rope) << c.factor << " " << c.head_dim;
    EXPECT_EQ(rope->type, RopeType::kLlama3);
    EXPECT_EQ(rope->factor, c.factor);
    EXPECT_EQ(rope->low_freq_factor, 1.0);
    EXPECT_NEAR(rope->high_freq_factor, c.high / c.low, 1e-3 * c.high);
    EXPECT_EQ(rope->original_max_position_embeddings, std::llround(c.length / c.low));
  }
}

TEST(Llama3Factors, OthersAreRefused) {
  std::vector<float> factors = factors_of(5e5, 128, 8, 1, 4, 8192);
  const auto refused = [&](const std::function<void(std::vector<float>&)>& change) {
    std::vector<float> changed = factors;
    change(changed);
    return !llama3_from_factors(changed, 5e5);
  };
  EXPECT_FALSE(refused([](auto&) {}));
  EXPECT_TRUE(refused([](auto& f) { f[30] *= 1.01f; }));
  EXPECT_TRUE(refused([](auto& f) { f[0] = 1.001f; }));
  EXPECT_TRUE(refused([](auto& f) { f[10] = 0.5f; }));
  EXPECT_TRUE(refused([](auto& f) { f[10] = std::nanf(""); }));
  EXPECT_TRUE(refused([](auto& f) { f[10] = INFINITY; }));
  EXPECT_TRUE(refused([](auto& f) { f.back() = INFINITY; }));
  EXPECT_TRUE(refused([](auto& f) { f.back() = 16; }));
  EXPECT_TRUE(refused([](auto& f) { std::fill(f.begin(), f.end(), 8.0f); }));
  EXPECT_TRUE(refused([](auto& f) { std::fill(f.begin(), f.begin() + 20, 2.0f); }));
  EXPECT_TRUE(refused([](auto& f) { f.resize(2); }));
  EXPECT_TRUE(refused([](auto& f) { f.clear(); }));
  EXPECT_TRUE(refused([](auto& f) { std::reverse(f.begin(), f.end()); }));
}

TEST_F(GgufLlama, FrequencyTensorBecomesLlama3) {
  const auto with = [](const std::vector<float>& factors, bool linear = false) {
    GgufBuilder file;
    file.text("general.architecture", "llama")
        .u32("llama.embedding_length", 256)
        .u32("llama.feed_forward_length", 96);
    file.u32("llama.block_count", 1)
        .u32("llama.attention.head_count", 4)
        .u32("llama.context_length", 131072);
    file.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f).u32("llama.vocab_size", 100);
    file.f32("llama.rope.freq_base", 500000.0f);
    if (linear)
      file.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0f);
    std::string data;
    for (const float factor : factors) data += bytes_of(factor);
    return file.tensor("rope_freqs.weight", {factors.size()}, 0, data);
  };
  const std::vector<float> factors = factors_of(5e5, 64, 32, 1, 4, 8192);
  const RopeParameters rope = config_of(with(factors)).rope;
  EXPECT_EQ(rope.type, RopeType::kLlama3);
  EXPECT_EQ(rope.theta, 5e5);
  EXPECT_EQ(rope.factor, 32.0);
  EXPECT_EQ(rope.high_freq_factor, 4.0);
  EXPECT_EQ(rope.original_max_position_embeddings, 8192);
  EXPECT_EQ(config_of(with(std::vector<float>(32, 1.0f))).rope.type, RopeType::kDefault);
  EXPECT_REFUSED(with(std::vector<float>(32, 2.0f)),
                 "tensor 'rope_freqs.weight' holds no llama3 scaling");
  EXPECT_REFUSED(with(factors, true), "both tensor 'rope_freqs.weight' and rope.scaling.type");
  const std::string shape = refusal<ShapeError>(with(std::vector<float>(16, 1.0f)));
  EXPECT_NE(shape.find("tensor 'rope_freqs.weight' has shape [16], expected [32]"),
            std::string::npos)
      << shape;
}

TEST(LlamaLayout, NamesEveryTensor) {
  HfConfig config = gguf_config(GgufReader(fixture("gguf/tiny_llama.gguf")));
  const GgufReader gguf(fixture("gguf/tiny_llama.gguf"));
  const auto tensors = model_tensors(config);
  EXPECT_EQ(tensors.size(), gguf.tensors().size());
  for (const ExpectedTensor& tensor : tensors) {
    ASSERT_NE(gguf.find_tensor(tensor.gguf_name), nullptr) << tensor.gguf_name;
    EXPECT_EQ(gguf.find_tensor(tensor.gguf_name)->shape, tensor.shape) << tensor.name;
    const bool q_or_k = tensor.name.find("q_proj") != std::string::npos ||
                        tensor.name.find("k_proj") != std::string::npos;
    EXPECT_EQ(tensor.rope_permuted, q_or_k) << tensor.name;
  }
  config.tie_word_embeddings = true;
  config.arch.qkv_bias = config.arch.output_bias = false;
  EXPECT_EQ(model_tensors(config).size(), tensors.size() - 1 - 8);
  config.arch.mlp_bias = true;
  EXPECT_EQ(model_tensors(config).size(), tensors.size() - 1 - 8 + 6);
  EXPECT_EQ(model_tensors(config).back().name, "model.norm.weight");
}

}  // namespace
}  // namespace qlora::io
