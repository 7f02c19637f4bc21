#include "io/gguf_llama.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "io/foreign_text.h"
#include "io/llama_layout.h"

namespace qlora::io {
namespace {

constexpr const char* kFrequencies = "rope_freqs.weight";

double wavelength(size_t pair, size_t pairs, double theta) {
  return 2 * std::numbers::pi *
         std::pow(theta, static_cast<double>(pair) / static_cast<double>(pairs));
}

/// Keys that change the arithmetic; `neutral` is the value that changes nothing.
void refuse_unknown_arithmetic(const GgufReader& gguf) {
  const std::pair<const char*, double> kNeutral[] = {{"llama.expert_count", 0},
                                                     {"llama.attention.sliding_window", 0},
                                                     {"llama.attention.clamp_kqv", 0},
                                                     {"llama.attention.scale", 0},
                                                     {"llama.attn_logit_softcapping", 0},
                                                     {"llama.final_logit_softcapping", 0},
                                                     {"llama.logit_scale", 0},
                                                     {"llama.residual_scale", 0},
                                                     {"llama.embedding_scale", 0},
                                                     {"llama.rope.scaling.alpha", 0},
                                                     {"llama.rope.scaling.attn_factor", 1},
                                                     {"llama.rope.scaling.yarn_log_multiplier", 0},
                                                     {"llama.rope.scaling.yarn_ext_factor", 1},
                                                     {"llama.rope.scaling.yarn_attn_factor", 1},
                                                     {"llama.rope.scale_linear", 1}};
  for (const auto& [key, neutral] : kNeutral) {
    const auto value = gguf.find_number(key);
    QLORA_CHECK(!value || *value == neutral, FormatError,
                "[io] {}: metadata key '{}' is {}; models that use it are not read",
                gguf.path().string(), key, *value);
  }
}

RopeParameters read_scaling(const GgufReader& gguf, int64_t context_length) {
  RopeParameters rope;
  rope.theta = gguf.find_number("llama.rope.freq_base").value_or(rope.theta);
  rope.original_max_position_embeddings = context_length;
  const std::string_view type = gguf.find_string("llama.rope.scaling.type").value_or("none");
  if (type == "none") return rope;
  QLORA_CHECK(type == "linear" || type == "yarn", FormatError,
              "[io] {}: llama.rope.scaling.type is {}; none, linear and yarn are read",
              gguf.path().string(), quote(type));
  rope.type = type == "linear" ? RopeType::kLinear : RopeType::kYarn;
  rope.factor = gguf.number("llama.rope.scaling.factor");
  if (rope.type == RopeType::kYarn) {
    rope.original_max_position_embeddings =
        gguf.find_integer("llama.rope.scaling.original_context_length").value_or(context_length);
    rope.beta_fast = gguf.find_number("llama.rope.scaling.yarn_beta_fast").value_or(rope.beta_fast);
    rope.beta_slow = gguf.find_number("llama.rope.scaling.yarn_beta_slow").value_or(rope.beta_slow);
  }
  return rope;
}

/// Llama 3 keeps its scaling as a tensor of factors instead of metadata.
void apply_frequencies(const GgufReader& gguf, HfConfig& config) {
  const GgufTensor* tensor = gguf.find_tensor(kFrequencies);
  if (tensor == nullptr) return;
  const std::string where = gguf.path().string();
  QLORA_CHECK(tensor->shape == std::vector<int64_t>{config.head_dim / 2}, ShapeError,
              "[io] {}: tensor '{}' has shape [{}], expected [{}]", where, kFrequencies,
              fmt::join(tensor->shape, ", "), config.head_dim / 2);
  QLORA_CHECK(config.rope.type == RopeType::kDefault, FormatError,
              "[io] {}: both tensor '{}' and llama.rope.scaling.type scale the rotary embedding",
              where, kFrequencies);
  std::vector<float> factors(static_cast<size_t>(config.head_dim / 2));
  gguf.read_f32_rows(*tensor, 0, 1, factors.data());
  if (std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1.0f; }))
    return;
  const auto rope = llama3_from_factors(factors, config.rope.theta);
  QLORA_CHECK(rope, FormatError,
              "[io] {}: tensor '{}' holds no llama3 scaling; other factors are not read", where,
              kFrequencies);
  config.rope = *rope;
}

void read_token_ids(const GgufReader& gguf, HfConfig& config) {
  config.bos_token_id = gguf.find_integer("tokenizer.ggml.bos_token_id");
  config.pad_token_id = gguf.find_integer("tokenizer.ggml.padding_token_id");
  if (const auto eos = gguf.find_integer("tokenizer.ggml.eos_token_id"))
    config.eos_token_ids = {*eos};
}

int64_t read_vocab_size(const GgufReader& gguf) {
  if (const auto size = gguf.find_integer("llama.vocab_size")) return *size;
  if (const GgufTensor* embedding = gguf.find_tensor("token_embd.weight")) return embedding->rows();
  return gguf.integer("llama.vocab_size");
}

void refuse_unknown_tensors(const GgufReader& gguf, const HfConfig& config) {
  std::unordered_set<std::string> known = {kFrequencies};
  for (const ExpectedTensor& tensor : llama_tensors(config)) known.insert(tensor.gguf_name);
  for (const GgufTensor& tensor : gguf.tensors()) {
    QLORA_CHECK(known.contains(std::string(tensor.name)), FormatError,
                "[io] {}: tensor {} is none of a Llama model with {} blocks", gguf.path().string(),
                quote(tensor.name), config.num_hidden_layers);
  }
}

}  // namespace

std::optional<RopeParameters> llama3_from_factors(std::span<const float> factors, double theta) {
  if (factors.size() < 3) return std::nullopt;
  // A pair of wavelength w is divided by f with 1/f = (1 - s)/F + s and s = (L/w - low) / (high -
  // low), s limited to [0, 1]: between the ends, s is a straight line in 1/w. Two points of it give
  // L / (high - low) and low / (high - low).
  const double most = factors.back();
  std::vector<std::pair<double, double>> line;  // 1/w, s
  for (size_t i = 0; i < factors.size(); ++i) {
    const double factor = factors[i];
    if (!(factor >= 1 && factor <= most)) return std::nullopt;
    if (factor == 1 || factor == most) continue;
    line.emplace_back(1 / wavelength(i, factors.size(), theta),
                      (1 / factor - 1 / most) / (1 - 1 / most));
  }
  if (line.size() < 2) return std::nullopt;
  const auto [u0, s0] = line.front();
  const auto [u1, s1] = line.back();
  const double slope = (s0 - s1) / (u0 - u1), shift = slope * u0 - s0;
  if (!(slope > 0 && shift > 0)) return std::nullopt;

  RopeParameters rope;
  rope.type = RopeType::kLlama3;
  rope.theta = theta;
  rope.factor = most;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 1 + 1 / shift;
  const double whole = std::round(rope.high_freq_factor);
  if (std::abs(whole - rope.high_freq_factor) < 1e-3 * whole) rope.high_freq_factor = whole;
  const double length = slope / shift;
  if (!(length >= 1 && length <= INT32_MAX)) return std::nullopt;
  rope.original_max_position_embeddings = std::llround(length);

  const double low = rope.low_freq_factor, high = rope.high_freq_factor;
  for (size_t i = 0; i < factors.size(); ++i) {
    const double turns = static_cast<double>(rope.original_max_position_embeddings) /
                         wavelength(i, factors.size(), theta);
    const double s = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    const double factor = 1 / ((1 - s) / most + s);
    if (!(std::abs(factor - factors[i]) <= 1e-4 * factor)) return std::nullopt;
  }
  return rope;
}

HfConfig gguf_llama_config(const GgufReader& gguf) {
  const std::string where = gguf.path().string();
  const std::string_view architecture = gguf.string("general.architecture");
  QLORA_CHECK(architecture == "llama", FormatError,
              "[io] {}: general.architecture is {}; known is llama", where, quote(architecture));
  refuse_unknown_arithmetic(gguf);
  HfConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.vocab_size = read_vocab_size(gguf);
  config.hidden_size = gguf.integer("llama.embedding_length");
  config.intermediate_size = gguf.integer("llama.feed_forward_length");
  config.num_hidden_layers = gguf.integer("llama.block_count");
  config.num_attention_heads = gguf.integer("llama.attention.head_count");
  config.num_key_value_heads =
      gguf.find_integer("llama.attention.head_count_kv").value_or(config.num_attention_heads);
  const auto key_length = gguf.find_integer("llama.attention.key_length");
  QLORA_CHECK(key_length || (config.num_attention_heads > 0 && config.hidden_size > 0 &&
                             config.hidden_size % config.num_attention_heads == 0),
              FormatError, "[io] {}: embedding_length {} is no multiple of head_count {}", where,
              config.hidden_size, config.num_attention_heads);
  config.head_dim = key_length ? *key_length : config.hidden_size / config.num_attention_heads;
  for (const char* key : {"llama.attention.value_length", "llama.rope.dimension_count"}) {
    const auto value = gguf.find_integer(key);
    QLORA_CHECK(!value || *value == config.head_dim, FormatError,
                "[io] {}: {} is {}, the head width {} is allowed", where, key, *value,
                config.head_dim);
  }
  config.max_position_embeddings = gguf.integer("llama.context_length");
  config.rms_norm_eps = gguf.number("llama.attention.layer_norm_rms_epsilon");
  config.rope = read_scaling(gguf, config.max_position_embeddings);
  config.tie_word_embeddings = gguf.find_tensor("output.weight") == nullptr;
  config.attention_bias = gguf.find_tensor("blk.0.attn_q.bias") != nullptr;
  config.mlp_bias = gguf.find_tensor("blk.0.ffn_gate.bias") != nullptr;
  config.torch_dtype = "bfloat16";
  read_token_ids(gguf, config);
  validate(config, where);
  apply_frequencies(gguf, config);
  validate(config, where);
  refuse_unknown_tensors(gguf, config);
  return config;
}

}  // namespace qlora::io
