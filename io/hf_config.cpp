#include "io/hf_config.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/hf_rope.h"
#include "io/json_object.h"
#include "io/strict_json.h"

namespace qlora::io {
namespace {

constexpr uint64_t kConfigLimitBytes = 16 << 20;

struct Family {
  const char* architecture;
  const char* model_type;
};
constexpr std::array kFamilies = {Family{"LlamaForCausalLM", "llama"}};

/// The family that `architectures` and `model_type` name together; one of the two is enough.
const Family& family_of(const JsonObject& config) {
  const std::string model_type = config.text("model_type").value_or("");
  std::string architecture;
  if (const nlohmann::json* names = config.find("architectures")) {
    const bool one = names->is_array() && names->size() == 1 && names->front().is_string();
    if (!one) config.fail("architectures", *names, "a list of one name");
    architecture = names->front().get<std::string>();
  }
  for (const Family& family : kFamilies) {
    const bool by_name = architecture.empty() || architecture == family.architecture;
    const bool by_type = model_type.empty() || model_type == family.model_type;
    if (by_name && by_type && !(architecture.empty() && model_type.empty())) return family;
  }
  throw FormatError(fmt::format(
      "[io] {}: architecture {} of model_type {} is not known; known are {}", config.where(),
      quote(architecture), quote(model_type), fmt::join(known_architectures(), ", ")));
}

/// An id, or nothing where it is null or negative (old files write -1 for "none").
std::optional<int64_t> token_id(const JsonObject& config, const char* key,
                                std::optional<int64_t> if_absent) {
  if (!config.stands(key)) return if_absent;
  const auto id = config.integer(key);
  return id && *id >= 0 ? id : std::nullopt;
}

std::vector<int64_t> eos_ids(const JsonObject& config) {
  const nlohmann::json* value = config.find("eos_token_id");
  if (value == nullptr || !value->is_array()) {
    const auto id = token_id(config, "eos_token_id", 2);
    return id ? std::vector<int64_t>{*id} : std::vector<int64_t>{};
  }
  std::vector<int64_t> ids;
  for (const nlohmann::json& id : *value) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX)
      config.fail("eos_token_id", *value, "a list of ids");
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

std::string dtype_text(const JsonObject& config) {
  const auto name = config.text("dtype");
  std::string text = name ? *name : config.text("torch_dtype").value_or("");
  return text.starts_with("torch.") ? text.substr(6) : text;
}

void check(bool condition, std::string_view where, const char* key, int64_t value,
           const std::string& allowed) {
  QLORA_CHECK(condition, FormatError, "[io] {}: {} is {}, {} is allowed", where, key, value,
              allowed);
}

void check_range(std::string_view where, const char* key, int64_t value, int64_t most) {
  check(value >= 1 && value <= most, where, key, value, fmt::format("1 to {}", most));
}

}  // namespace

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies)
    names.push_back(fmt::format("{} ({})", family.architecture, family.model_type));
  return names;
}

HfConfig parse_hf_config(std::string_view text, std::string_view where) {
  const nlohmann::json json = parse_strict_json(text, where);
  const JsonObject object(json, std::string(where));
  const Family& family = family_of(object);
  HfConfig config;
  config.architecture = family.architecture;
  config.model_type = family.model_type;
  config.vocab_size = object.required_integer("vocab_size");
  config.hidden_size = object.required_integer("hidden_size");
  config.intermediate_size = object.required_integer("intermediate_size");
  config.num_hidden_layers = object.required_integer("num_hidden_layers");
  config.num_attention_heads = object.required_integer("num_attention_heads");
  config.num_key_value_heads =
      object.integer("num_key_value_heads").value_or(config.num_attention_heads);
  check_range(where, "hidden_size", config.hidden_size, 1 << 20);
  check_range(where, "num_attention_heads", config.num_attention_heads, 1 << 16);
  const auto head_dim = object.integer("head_dim");
  check(head_dim || config.hidden_size % config.num_attention_heads == 0, where, "hidden_size",
        config.hidden_size,
        fmt::format("without head_dim a multiple of num_attention_heads ({})",
                    config.num_attention_heads));
  config.head_dim = head_dim.value_or(config.hidden_size / config.num_attention_heads);
  config.max_position_embeddings = object.integer("max_position_embeddings").value_or(2048);
  config.rms_norm_eps = object.number("rms_norm_eps").value_or(config.rms_norm_eps);
  check_range(where, "max_position_embeddings", config.max_position_embeddings, INT32_MAX);
  config.rope = parse_rope(object, config.max_position_embeddings);
  config.tie_word_embeddings = object.boolean("tie_word_embeddings").value_or(false);
  config.attention_bias = object.boolean("attention_bias").value_or(false);
  config.mlp_bias = object.boolean("mlp_bias").value_or(false);
  config.hidden_act = object.text("hidden_act").value_or(config.hidden_act);
  if (config.hidden_act == "swish") config.hidden_act = "silu";  // two names of x * sigmoid(x)
  config.torch_dtype = dtype_text(object);
  config.initializer_range = object.number("initializer_range").value_or(config.initializer_range);
  config.bos_token_id = token_id(object, "bos_token_id", 1);
  config.pad_token_id = token_id(object, "pad_token_id", std::nullopt);
  config.eos_token_ids = eos_ids(object);
  if (const nlohmann::json* quantization = object.find("quantization_config")) {
    config.quantization_config = quantization->dump();
  }
  validate(config, where);
  return config;
}

HfConfig read_hf_config(const std::filesystem::path& config_json) {
  return parse_hf_config(read_file(config_json, kConfigLimitBytes), config_json.string());
}

void validate(const HfConfig& config, std::string_view where) {
  check_range(where, "vocab_size", config.vocab_size, INT32_MAX);
  check_range(where, "hidden_size", config.hidden_size, 1 << 20);
  check_range(where, "intermediate_size", config.intermediate_size, 1 << 24);
  check_range(where, "num_hidden_layers", config.num_hidden_layers, 1 << 12);
  check_range(where, "num_attention_heads", config.num_attention_heads, 1 << 16);
  check_range(where, "num_key_value_heads", config.num_key_value_heads, config.num_attention_heads);
  check(config.num_attention_heads % config.num_key_value_heads == 0, where, "num_key_value_heads",
        config.num_key_value_heads,
        fmt::format("a divisor of num_attention_heads ({})", config.num_attention_heads));
  check(config.head_dim >= 2 && config.head_dim <= 1 << 16 && config.head_dim % 2 == 0, where,
        "head_dim", config.head_dim, "an even number from 2 to 65536");
  check_range(where, "max_position_embeddings", config.max_position_embeddings, INT32_MAX);
  QLORA_CHECK(config.rms_norm_eps > 0 && config.rms_norm_eps <= 1, FormatError,
              "[io] {}: rms_norm_eps is {}, above 0 up to 1 is allowed", where,
              config.rms_norm_eps);
  QLORA_CHECK(config.initializer_range >= 0 && config.initializer_range <= 1, FormatError,
              "[io] {}: initializer_range is {}, 0 to 1 is allowed", where,
              config.initializer_range);
  QLORA_CHECK(config.hidden_act == "silu", FormatError,
              "[io] {}: hidden_act is {}, silu is allowed", where, quote(config.hidden_act));
  validate_rope(config.rope, std::string(where));
  QLORA_CHECK(
      config.rope.partial_rotary_factor == 1.0, FormatError,
      "[io] {}: partial_rotary_factor is {}, but the Llama architecture rotates whole heads", where,
      config.rope.partial_rotary_factor);
  check(config.rope.type != RopeType::kDynamic || config.head_dim > 2, where, "head_dim",
        config.head_dim, "with dynamic rope scaling 4 or more");
  const std::string ids = fmt::format("below vocab_size ({})", config.vocab_size);
  const auto check_id = [&](const char* key, int64_t id) {
    check(id >= 0 && id < config.vocab_size, where, key, id, ids);
  };
  if (config.bos_token_id) check_id("bos_token_id", *config.bos_token_id);
  if (config.pad_token_id) check_id("pad_token_id", *config.pad_token_id);
  for (const int64_t id : config.eos_token_ids) check_id("eos_token_id", id);
}

nlohmann::json to_json(const HfConfig& config) {
  const auto optional = [](const std::optional<int64_t>& id) {
    return id ? nlohmann::json(*id) : nlohmann::json();
  };
  nlohmann::json json = {{"architectures", {config.architecture}},
                         {"model_type", config.model_type},
                         {"vocab_size", config.vocab_size},
                         {"hidden_size", config.hidden_size},
                         {"intermediate_size", config.intermediate_size},
                         {"num_hidden_layers", config.num_hidden_layers},
                         {"num_attention_heads", config.num_attention_heads},
                         {"num_key_value_heads", config.num_key_value_heads},
                         {"head_dim", config.head_dim},
                         {"max_position_embeddings", config.max_position_embeddings},
                         {"rms_norm_eps", config.rms_norm_eps},
                         {"tie_word_embeddings", config.tie_word_embeddings},
                         {"attention_bias", config.attention_bias},
                         {"mlp_bias", config.mlp_bias},
                         {"hidden_act", config.hidden_act},
                         {"initializer_range", config.initializer_range},
                         {"bos_token_id", optional(config.bos_token_id)},
                         {"pad_token_id", optional(config.pad_token_id)},
                         {"rope_theta", config.rope.theta},
                         {"rope_parameters", rope_to_json(config.rope)}};
  // Old readers know scaling by this key alone, and take it for scaling even where it says
  // "default".
  json["rope_scaling"] =
      config.rope.type == RopeType::kDefault ? nlohmann::json() : rope_to_json(config.rope);
  const auto& eos = config.eos_token_ids;
  json["eos_token_id"] = eos.empty()       ? nlohmann::json()
                         : eos.size() == 1 ? nlohmann::json(eos[0])
                                           : nlohmann::json(eos);
  if (!config.torch_dtype.empty()) json["dtype"] = json["torch_dtype"] = config.torch_dtype;
  if (!config.quantization_config.empty())
    json["quantization_config"] = nlohmann::json::parse(config.quantization_config);
  return json;
}

}  // namespace qlora::io
