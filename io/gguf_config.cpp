#include "io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "io/foreign_text.h"
#include "io/gguf_family.h"
#include "io/gguf_key_names.h"
#include "io/hf_rope.h"
#include "io/tensor_layout.h"

namespace qlora::io {
namespace {

constexpr const char* kFrequencies = "rope_freqs.weight";
constexpr const char* kLongFactors = "rope_factors_long.weight";
constexpr const char* kShortFactors = "rope_factors_short.weight";

double wavelength(size_t pair, size_t pairs, double theta) {
  return 2 * std::numbers::pi *
         std::pow(theta, static_cast<double>(pair) / static_cast<double>(pairs));
}

/// The metadata of one family: its keys begin with its name.
class Keys {
 public:
  explicit Keys(const GgufReader& gguf)
      : gguf_(gguf),
        family_(gguf_family_named(gguf.string("general.architecture"), gguf.path().string())) {}

  const GgufReader& gguf() const { return gguf_; }
  const Family& family() const { return *family_.family; }
  /// Keys that change the arithmetic and that read_family or read_longrope takes up.
  bool family_reads(std::string_view key) const {
    const bool is_phi = family_.family == &kPhi3Family,
               is_gemma2 = family_.family == &kGemma2Family;
    if (key == "attention.sliding_window")
      return is_phi || is_gemma2 || family_.family == &kGemma3Family;
    return (is_gemma2 && key.ends_with("softcapping")) ||
           (is_phi && key == "rope.scaling.attn_factor");
  }
  std::string in_its_keys(std::string_view message) const {
    return in_gguf_keys(message, gguf_, family_.name);
  }
  std::string name(const char* key) const { return fmt::format("{}.{}", family_.name, key); }
  auto find_number(const char* key) const { return gguf_.find_number(name(key)); }
  auto find_integer(const char* key) const { return gguf_.find_integer(name(key)); }
  double number(const char* key) const { return gguf_.number(name(key)); }
  int64_t integer(const char* key) const { return gguf_.integer(name(key)); }

 private:
  const GgufReader& gguf_;
  const GgufFamily& family_;
};

/// Keys that change the arithmetic; `neutral` is the value that changes nothing.
void refuse_unknown_arithmetic(const Keys& keys) {
  const std::pair<const char*, double> kNeutral[] = {{"expert_count", 0},
                                                     {"attention.sliding_window", 0},
                                                     {"attention.clamp_kqv", 0},
                                                     {"attention.scale", 0},
                                                     {"attn_logit_softcapping", 0},
                                                     {"final_logit_softcapping", 0},
                                                     {"logit_scale", 0},
                                                     {"residual_scale", 0},
                                                     {"embedding_scale", 0},
                                                     {"rope.scaling.alpha", 0},
                                                     {"rope.scaling.attn_factor", 1},
                                                     {"rope.scaling.yarn_log_multiplier", 0},
                                                     {"rope.scaling.yarn_ext_factor", 1},
                                                     {"rope.scaling.yarn_attn_factor", 1},
                                                     {"rope.scale_linear", 1},
                                                     {"rope.freq_base_swa", 1e4}};
  for (const auto& [key, neutral] : kNeutral) {
    const auto value = keys.find_number(key);
    QLORA_CHECK(keys.family_reads(key) || !value || *value == neutral, FormatError,
                "[io] {}: metadata key '{}' is {}; models that use it are not read",
                keys.gguf().path().string(), keys.name(key), *value);
  }
}

RopeParameters read_scaling(const Keys& keys, int64_t context_length) {
  RopeParameters rope;
  const std::string where = keys.gguf().path().string();
  rope.theta = keys.find_number("rope.freq_base").value_or(keys.family().defaults().rope.theta);
  rope.original_max_position_embeddings = context_length;
  const std::string_view type =
      keys.gguf().find_string(keys.name("rope.scaling.type")).value_or("none");
  if (type == "none") return rope;
  QLORA_CHECK(type == "linear" || type == "yarn", FormatError,
              "[io] {}: {} is {}; none, linear and yarn are read", where,
              keys.name("rope.scaling.type"), quote(type));
  rope.type = type == "linear" ? RopeType::kLinear : RopeType::kYarn;
  rope.factor = keys.number("rope.scaling.factor");
  if (rope.type == RopeType::kYarn) {
    rope.original_max_position_embeddings =
        keys.find_integer("rope.scaling.original_context_length").value_or(context_length);
    rope.beta_fast = keys.find_number("rope.scaling.yarn_beta_fast").value_or(rope.beta_fast);
    rope.beta_slow = keys.find_number("rope.scaling.yarn_beta_slow").value_or(rope.beta_slow);
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
              "[io] {}: both tensor '{}' and rope.scaling.type scale the rotary embedding", where,
              kFrequencies);
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
  config.eos_token_ids.clear();
  if (const auto eos = gguf.find_integer("tokenizer.ggml.eos_token_id"))
    config.eos_token_ids = {*eos};
}

int64_t read_vocab_size(const Keys& keys) {
  if (const auto size = keys.find_integer("vocab_size")) return *size;
  if (const GgufTensor* embedding = keys.gguf().find_tensor("token_embd.weight"))
    return embedding->rows();
  return keys.integer("vocab_size");
}

/// The factors of longrope, which Phi-3 keeps as two tensors.
void read_longrope(const Keys& keys, HfConfig& config) {
  const GgufReader& gguf = keys.gguf();
  const auto read = [&](const char* name) {
    const GgufTensor* tensor = gguf.find_tensor(name);
    const int64_t pairs = config.rope.rotary_dim(config.head_dim) / 2;
    QLORA_CHECK(tensor != nullptr && tensor->shape == std::vector<int64_t>{pairs}, ShapeError,
                "[io] {}: tensor '{}' is missing or has not the shape [{}]", gguf.path().string(),
                name, pairs);
    std::vector<float> values(static_cast<size_t>(pairs));
    gguf.read_f32_rows(*tensor, 0, 1, values.data());
    return std::vector<double>(values.begin(), values.end());
  };
  if (gguf.find_tensor(kLongFactors) == nullptr && gguf.find_tensor(kShortFactors) == nullptr) {
    return;
  }
  config.rope.type = RopeType::kLongrope;
  config.rope.short_factor = read(kShortFactors);
  config.rope.long_factor = read(kLongFactors);
  config.rope.original_max_position_embeddings =
      keys.integer("rope.scaling.original_context_length");
  QLORA_CHECK(config.rope.original_max_position_embeddings >= 1, FormatError,
              "[io] {}: {} is {}, 1 or more is allowed", gguf.path().string(),
              keys.name("rope.scaling.original_context_length"),
              config.rope.original_max_position_embeddings);
  config.rope.factor = static_cast<double>(config.max_position_embeddings) /
                       static_cast<double>(config.rope.original_max_position_embeddings);
  config.rope.attention_factor = keys.find_number("rope.scaling.attn_factor");
}

/// What the family's own keys say, in the words of a config.json.
void read_family(const Keys& keys, HfConfig& config) {
  nlohmann::json json = {{"query_pre_attn_scalar", gguf_query_scalar(config)},
                         {"attention_bias", config.arch.qkv_bias},
                         {"mlp_bias", config.arch.mlp_bias},
                         {"rope_theta", config.rope.theta}};
  const auto window = keys.find_integer("attention.sliding_window");
  json["sliding_window"] = window && *window > 0 ? nlohmann::json(*window) : nlohmann::json();
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    const auto cap = keys.find_number(key);
    json[key] = cap && *cap > 0 ? nlohmann::json(*cap) : nlohmann::json();
  }
  if (config.rope.type != RopeType::kDefault) json["rope_scaling"] = rope_to_json(config.rope);
  const JsonObject object(json, keys.gguf().path().string());
  keys.family().read(object, config);
}

void refuse_unknown_tensors(const GgufReader& gguf, const HfConfig& config) {
  std::unordered_set<std::string> known = {kFrequencies, kLongFactors, kShortFactors};
  for (const ExpectedTensor& tensor : model_tensors(config)) known.insert(tensor.gguf_name);
  for (const GgufTensor& tensor : gguf.tensors()) {
    QLORA_CHECK(known.contains(std::string(tensor.name)), FormatError,
                "[io] {}: tensor {} is none of a model of this architecture with {} blocks",
                gguf.path().string(), quote(tensor.name), config.num_hidden_layers);
  }
}

HfConfig read_config(const Keys& keys) {
  const GgufReader& gguf = keys.gguf();
  const std::string where = gguf.path().string();
  refuse_unknown_arithmetic(keys);
  HfConfig config = keys.family().defaults();
  config.architecture = keys.family().architecture;
  config.model_type = keys.family().model_type;
  config.vocab_size = read_vocab_size(keys);
  config.hidden_size = keys.integer("embedding_length");
  config.intermediate_size = keys.integer("feed_forward_length");
  config.num_hidden_layers = keys.integer("block_count");
  config.num_attention_heads = keys.integer("attention.head_count");
  config.num_key_value_heads =
      keys.find_integer("attention.head_count_kv").value_or(config.num_attention_heads);
  const auto key_length = keys.find_integer("attention.key_length");
  QLORA_CHECK(key_length || (config.num_attention_heads > 0 && config.hidden_size > 0 &&
                             config.hidden_size % config.num_attention_heads == 0),
              FormatError, "[io] {}: {} is {}, a multiple of {} ({}) is allowed", where,
              keys.name("embedding_length"), config.hidden_size, keys.name("attention.head_count"),
              config.num_attention_heads);
  config.head_dim = key_length ? *key_length : config.hidden_size / config.num_attention_heads;
  const auto rotary = keys.find_integer("rope.dimension_count");
  const bool turns_part = keys.family().has_partial_rotary && rotary && *rotary > 0 &&
                          *rotary < config.head_dim && config.head_dim <= 1 << 16;
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const auto value = keys.find_integer(key);
    const bool is_part = turns_part && std::string_view(key) == "rope.dimension_count";
    QLORA_CHECK(!value || is_part || *value == config.head_dim, FormatError,
                "[io] {}: {} is {}, the head width {} is allowed", where, keys.name(key), *value,
                config.head_dim);
  }
  config.max_position_embeddings = keys.integer("context_length");
  config.rms_norm_eps = keys.number("attention.layer_norm_rms_epsilon");
  config.rope = read_scaling(keys, config.max_position_embeddings);
  if (turns_part) {
    config.rope.partial_rotary_factor =
        static_cast<double>(*rotary) / static_cast<double>(config.head_dim);
  }
  config.tie_word_embeddings = gguf.find_tensor("output.weight") == nullptr;
  config.arch.qkv_bias = gguf.find_tensor("blk.0.attn_q.bias") != nullptr;
  config.arch.output_bias = gguf.find_tensor("blk.0.attn_output.bias") != nullptr;
  config.arch.mlp_bias = gguf.find_tensor("blk.0.ffn_gate.bias") != nullptr;
  config.torch_dtype = "bfloat16";
  read_token_ids(gguf, config);
  validate(config, where);
  if (config.model_type == kLlamaFamily.model_type) {
    apply_frequencies(gguf, config);
  } else {
    if (keys.family().has_partial_rotary) read_longrope(keys, config);
    read_family(keys, config);
  }
  validate(config, where);
  return config;
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

HfConfig gguf_config(const GgufReader& gguf) {
  const Keys keys(gguf);
  HfConfig config;
  try {
    config = read_config(keys);
  } catch (const FormatError& problem) {  // the checks are those of a config.json
    throw FormatError(keys.in_its_keys(problem.what()));
  }
  refuse_unknown_tensors(gguf, config);
  return config;
}

}  // namespace qlora::io
