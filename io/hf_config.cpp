#include "io/hf_config.h"

#include <fmt/ranges.h>

#include <cmath>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/family.h"
#include "io/foreign_text.h"
#include "io/hf_config_check.h"
#include "io/hf_rope.h"
#include "io/json_object.h"
#include "io/strict_json.h"

namespace qlora::io {
namespace {

constexpr uint64_t kConfigLimitBytes = 16 << 20;

constexpr const char* kMultimodalType = "gemma3";
constexpr const char* kMultimodalArchitecture = "Gemma3ForConditionalGeneration";

/// The one name in `architectures`, or nothing.
std::string architecture_of(const JsonObject& config) {
  const nlohmann::json* names = config.find("architectures");
  if (names == nullptr) return "";
  const bool one = names->is_array() && names->size() == 1 && names->front().is_string();
  if (!one) config.fail("architectures", *names, "a list of one name");
  return names->front().get<std::string>();
}

/// The family that `architectures` and `model_type` name together; one of the two is enough.
const Family& family_of(const JsonObject& config) {
  const std::string model_type = config.text("model_type").value_or("");
  const std::string architecture = architecture_of(config);
  for (const Family* family : known_families()) {
    const bool by_name = architecture.empty() || architecture == family->architecture;
    const bool by_type = model_type.empty() || model_type == family->model_type;
    if (by_name && by_type && !(architecture.empty() && model_type.empty())) return *family;
  }
  throw FormatError(fmt::format(
      "[io] {}: architecture {} of model_type {} is not known; known are {}", config.where(),
      quote(architecture), quote(model_type), fmt::join(known_architectures(), ", ")));
}

/// The text part of a multimodal config.json, with what stands above it for both parts; any other
/// config.json as it is.
nlohmann::json text_part(nlohmann::json json, const std::string& where) {
  const JsonObject object(json, where);
  if (object.text("model_type") != kMultimodalType) return json;
  const std::string architecture = architecture_of(object);
  const nlohmann::json* found = object.find("text_config");
  if (found == nullptr || !(architecture.empty() || architecture == kMultimodalArchitecture))
    return json;
  if (!found->is_object()) object.fail("text_config", *found, "an object");
  nlohmann::json text = *found;
  for (const char* key : {"eos_token_id", "bos_token_id", "pad_token_id", "quantization_config"}) {
    if (json.contains(key)) text[key] = json[key];
  }
  for (const char* key : {"tie_word_embeddings", "dtype", "torch_dtype"}) {
    if (!text.contains(key) && json.contains(key)) text[key] = json[key];
  }
  text["architectures"] = {kGemma3Family.architecture};
  text["model_type"] = kGemma3Family.model_type;
  return text;
}

/// An id, or nothing where it is null or negative (old files write -1 for "none").
std::optional<int64_t> token_id(const JsonObject& config, const char* key,
                                std::optional<int64_t> if_absent) {
  if (!config.stands(key)) return if_absent;
  const auto id = config.integer(key);
  return id && *id >= 0 ? id : std::nullopt;
}

std::vector<int64_t> eos_ids(const JsonObject& config, const std::vector<int64_t>& if_absent) {
  if (!config.stands("eos_token_id")) return if_absent;
  const nlohmann::json* value = config.find("eos_token_id");
  if (value == nullptr || !value->is_array()) {
    const auto id = token_id(config, "eos_token_id", std::nullopt);
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

struct ActivationName {
  const char* name;
  Activation activation;
};
constexpr ActivationName kActivations[] = {{"silu", Activation::kSilu},
                                           {"gelu_pytorch_tanh", Activation::kGeluTanh},
                                           {"swish", Activation::kSilu},  // x * sigmoid(x) as well
                                           {"gelu_new", Activation::kGeluTanh}};

/// Gemma's newer key wins over the one of all families.
Activation read_activation(const JsonObject& config, Activation if_absent) {
  const char* key =
      config.find("hidden_activation") != nullptr ? "hidden_activation" : "hidden_act";
  const auto name = config.text(key);
  if (!name) return if_absent;
  for (const ActivationName& known : kActivations) {
    if (*name == known.name) return known.activation;
  }
  throw FormatError(fmt::format("[io] {}: {} is {}, silu and gelu_pytorch_tanh are allowed",
                                config.where(), key, quote(*name)));
}

const char* name_of(Activation activation) {
  return kActivations[static_cast<size_t>(activation)].name;
}

/// A size that the family has a usual value for, or that has to be there.
int64_t read_size(const JsonObject& config, const char* key, int64_t if_absent) {
  return if_absent > 0 ? config.integer(key).value_or(if_absent) : config.required_integer(key);
}

void read_sizes(const JsonObject& object, HfConfig& config) {
  config.vocab_size = read_size(object, "vocab_size", config.vocab_size);
  config.hidden_size = read_size(object, "hidden_size", config.hidden_size);
  config.intermediate_size = read_size(object, "intermediate_size", config.intermediate_size);
  config.num_hidden_layers = read_size(object, "num_hidden_layers", config.num_hidden_layers);
  config.num_attention_heads = read_size(object, "num_attention_heads", config.num_attention_heads);
  const int64_t kv = config.num_key_value_heads;
  const bool is_usual = kv > 0 && !object.stands("num_key_value_heads");
  config.num_key_value_heads =
      is_usual ? kv : object.integer("num_key_value_heads").value_or(config.num_attention_heads);
  check_sizes_of_blocks(config, object.where());
  const auto head_dim = object.integer("head_dim");
  if (head_dim || config.head_dim == 0) {
    check_head_division(config, head_dim.has_value(), object.where());
    config.head_dim = head_dim.value_or(config.hidden_size / config.num_attention_heads);
  }
}

}  // namespace

double HfConfig::query_scale() const {
  return arch.query_scale > 0 ? arch.query_scale : 1 / std::sqrt(static_cast<double>(head_dim));
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Family* family : known_families())
    names.push_back(fmt::format("{} ({})", family->architecture, family->model_type));
  names.push_back(
      fmt::format("the text part of {} ({})", kMultimodalArchitecture, kMultimodalType));
  return names;
}

HfConfig parse_hf_config(std::string_view text, std::string_view where) {
  const nlohmann::json json = text_part(parse_strict_json(text, where), std::string(where));
  const JsonObject object(json, std::string(where));
  const Family& family = family_of(object);
  HfConfig config = family.defaults();
  config.architecture = family.architecture;
  config.model_type = family.model_type;
  read_sizes(object, config);
  config.max_position_embeddings =
      object.integer("max_position_embeddings").value_or(config.max_position_embeddings);
  config.rms_norm_eps = object.number("rms_norm_eps").value_or(config.rms_norm_eps);
  check_positions(config, where);
  if (!family.has_layered_rope) {
    config.rope = parse_rope(object, config.max_position_embeddings, config.rope);
  }
  config.tie_word_embeddings =
      object.boolean("tie_word_embeddings").value_or(config.tie_word_embeddings);
  config.arch.activation = read_activation(object, config.arch.activation);
  config.torch_dtype = dtype_text(object);
  config.initializer_range = object.number("initializer_range").value_or(config.initializer_range);
  config.bos_token_id = token_id(object, "bos_token_id", config.bos_token_id);
  config.pad_token_id = token_id(object, "pad_token_id", config.pad_token_id);
  config.eos_token_ids = eos_ids(object, config.eos_token_ids);
  if (const nlohmann::json* quantization = object.find("quantization_config")) {
    config.quantization_config = quantization->dump();
  }
  family.read(object, config);
  validate(config, where);
  return config;
}

HfConfig read_hf_config(const std::filesystem::path& config_json) {
  return parse_hf_config(read_file(config_json, kConfigLimitBytes), config_json.string());
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
                         {"hidden_act", name_of(config.arch.activation)},
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
  family_named(config.model_type).write(config, json);
  return json;
}

}  // namespace qlora::io
