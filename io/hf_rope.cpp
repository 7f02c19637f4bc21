#include "io/hf_rope.h"

#include <array>
#include <cmath>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {
namespace {

constexpr const char* kOriginalLength = "original_max_position_embeddings";
constexpr size_t kMostFactors = 1 << 15;  // half of the widest head

struct RopeName {
  RopeType type;
  const char* name;
};
constexpr std::array<RopeName, 6> kNames = {{{RopeType::kDefault, "default"},
                                             {RopeType::kLinear, "linear"},
                                             {RopeType::kDynamic, "dynamic"},
                                             {RopeType::kLlama3, "llama3"},
                                             {RopeType::kYarn, "yarn"},
                                             {RopeType::kLongrope, "longrope"}}};

RopeType rope_type_of(const std::string& name, const std::string& where) {
  std::string known;
  if (name == "su") return RopeType::kLongrope;  // its first name
  for (const RopeName& row : kNames) {
    if (name == row.name) return row.type;
    known += std::string(known.empty() ? "" : ", ") + row.name;
  }
  throw FormatError(
      fmt::format("[io] {}: rope type {} is not known; known are {}", where, quote(name), known));
}

const char* name_of(RopeType type) {
  return kNames[static_cast<size_t>(type)].name;
}

/// The object with the parameters: rope_scaling wins where both stand; nullptr where none is
/// filled.
const nlohmann::json* find_object(const JsonObject& config, std::string* where) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const nlohmann::json* object = config.find(key);
    if (object == nullptr || object->empty()) continue;
    *where = fmt::format("{}: {}", config.where(), key);
    return object;
  }
  return nullptr;
}

void parse_llama3(const JsonObject& object, RopeParameters& rope) {
  rope.factor = object.required_number("factor");
  rope.low_freq_factor = object.required_number("low_freq_factor");
  rope.high_freq_factor = object.required_number("high_freq_factor");
}

void parse_yarn(const JsonObject& object, int64_t max_position_embeddings, RopeParameters& rope) {
  // As transformers has it: the key has to be there, and null stands for the ratio of the lengths.
  QLORA_CHECK(object.stands("factor"), FormatError,
              "[io] {}: factor is missing; a number is needed, or null for max_position_embeddings "
              "/ {}",
              object.where(), kOriginalLength);
  rope.factor =
      object.number("factor").value_or(static_cast<double>(max_position_embeddings) /
                                       static_cast<double>(rope.original_max_position_embeddings));
  // As transformers has it: a 0 stands for the default.
  if (const auto beta = object.number("beta_fast"); beta && *beta != 0) rope.beta_fast = *beta;
  if (const auto beta = object.number("beta_slow"); beta && *beta != 0) rope.beta_slow = *beta;
  rope.mscale = object.number("mscale");
  rope.mscale_all_dim = object.number("mscale_all_dim");
  rope.attention_factor = object.number("attention_factor");
  rope.truncate = object.boolean("truncate").value_or(true);
}

std::vector<double> factors(const JsonObject& object, const char* key) {
  const nlohmann::json* list = object.find(key);
  QLORA_CHECK(list != nullptr, FormatError, "[io] {}: {} is missing; a list of numbers is needed",
              object.where(), key);
  std::vector<double> values;
  const bool fits = list->is_array() && !list->empty() && list->size() <= kMostFactors;
  if (!fits) object.fail(key, *list, "a list of numbers");
  for (const nlohmann::json& value : *list) {
    if (!value.is_number()) object.fail(key, value, "a number");
    values.push_back(value.get<double>());
  }
  return values;
}

void parse_longrope(const JsonObject& object, int64_t max_position_embeddings,
                    RopeParameters& rope) {
  rope.factor =
      object.number("factor").value_or(static_cast<double>(max_position_embeddings) /
                                       static_cast<double>(rope.original_max_position_embeddings));
  rope.attention_factor = object.number("attention_factor");
  rope.short_factor = factors(object, "short_factor");
  rope.long_factor = factors(object, "long_factor");
}

/// What one object of parameters says, over what `rope` holds already.
///   beside    original_max_position_embeddings next to the object: it wins over the one inside
void parse_object(const JsonObject& object, std::optional<int64_t> beside,
                  int64_t max_position_embeddings, RopeParameters& rope) {
  rope.theta = object.number("rope_theta").value_or(rope.theta);
  rope.partial_rotary_factor =
      object.number("partial_rotary_factor").value_or(rope.partial_rotary_factor);
  const auto type = object.text("rope_type");
  rope.type = rope_type_of(type ? *type : object.text("type").value_or("default"), object.where());
  const bool has_length = rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn ||
                          rope.type == RopeType::kLongrope;
  if (has_length) {
    const auto inside = object.integer(kOriginalLength);
    rope.original_max_position_embeddings =
        beside ? *beside : inside.value_or(max_position_embeddings);
    QLORA_CHECK(rope.original_max_position_embeddings > 0, FormatError,
                "[io] {}: {} is {}, 1 or more is allowed", object.where(), kOriginalLength,
                rope.original_max_position_embeddings);
  }
  if (rope.type == RopeType::kLinear || rope.type == RopeType::kDynamic)
    rope.factor = object.required_number("factor");
  if (rope.type == RopeType::kLlama3) parse_llama3(object, rope);
  if (rope.type == RopeType::kYarn) parse_yarn(object, max_position_embeddings, rope);
  if (rope.type == RopeType::kLongrope) parse_longrope(object, max_position_embeddings, rope);
}

void check(bool condition, const std::string& where, const char* key, double value,
           const char* allowed) {
  QLORA_CHECK(condition, FormatError, "[io] {}: rope {} is {}, {} is allowed", where, key, value,
              allowed);
}

}  // namespace

RopeParameters parse_rope(const JsonObject& config, int64_t max_position_embeddings,
                          const RopeParameters& defaults) {
  RopeParameters rope;
  rope.theta = config.number("rope_theta").value_or(defaults.theta);
  rope.partial_rotary_factor = config.number("partial_rotary_factor").value_or(1.0);
  rope.original_max_position_embeddings = max_position_embeddings;
  std::string where;
  const nlohmann::json* found = find_object(config, &where);
  if (found == nullptr) return rope;

  const JsonObject object(*found, where);
  for (const auto& [key, value] : found->items()) {
    QLORA_CHECK(
        !value.is_object(), FormatError,
        "[io] {}: {} holds parameters of its own; rotary parameters by layer type are not read",
        where, quote(key));
  }
  auto beside = config.integer(kOriginalLength);
  if (!beside && defaults.original_max_position_embeddings > 0)
    beside = defaults.original_max_position_embeddings;
  parse_object(object, beside, max_position_embeddings, rope);
  return rope;
}

LayeredRope parse_layered_rope(const JsonObject& config, int64_t max_position_embeddings,
                               double full_theta, double sliding_theta) {
  LayeredRope rope;
  rope.full.theta = config.number("rope_theta").value_or(full_theta);
  rope.sliding.theta = config.number("rope_local_base_freq").value_or(sliding_theta);
  rope.full.original_max_position_embeddings = rope.sliding.original_max_position_embeddings =
      max_position_embeddings;
  const auto parse = [&](const JsonObject& parent, const char* key, RopeParameters& out) {
    const nlohmann::json* found = parent.find(key);
    if (found == nullptr || found->empty()) return;
    const JsonObject object(*found, fmt::format("{}: {}", parent.where(), key));
    parse_object(object, std::nullopt, max_position_embeddings, out);
  };
  if (const nlohmann::json* found = config.find("rope_parameters")) {
    const JsonObject both(*found, fmt::format("{}: rope_parameters", config.where()));
    for (const auto& [key, value] : found->items()) {
      QLORA_CHECK(key == "full_attention" || key == "sliding_attention", FormatError,
                  "[io] {}: {} is no layer type; full_attention and sliding_attention are",
                  both.where(), quote(key));
    }
    parse(both, "full_attention", rope.full);
    parse(both, "sliding_attention", rope.sliding);
  }
  parse(config, "rope_scaling", rope.full);
  return rope;
}

void validate_rope(const RopeParameters& rope, const std::string& where) {
  constexpr double kMost = 1e12;
  check(rope.theta > 1.0 && rope.theta <= kMost, where, "theta", rope.theta, "above 1, up to 1e12");
  const double least = rope.type == RopeType::kLongrope ? 1e-12 : 1.0;  // below 1 it means 1
  check(rope.factor >= least && rope.factor <= kMost, where, "factor", rope.factor, "1 to 1e12");
  check(rope.original_max_position_embeddings >= 1 &&
            rope.original_max_position_embeddings <= INT32_MAX,
        where, "original_max_position_embeddings",
        static_cast<double>(rope.original_max_position_embeddings), "1 to 2147483647");
  check(rope.partial_rotary_factor > 0 && rope.partial_rotary_factor <= 1, where,
        "partial_rotary_factor", rope.partial_rotary_factor, "above 0, up to 1");
  for (const auto* list : {&rope.short_factor, &rope.long_factor}) {
    for (const double factor : *list) {
      check(factor > 0 && factor <= kMost, where, "short_factor or long_factor", factor,
            "above 0, up to 1e12");
    }
  }
  check(rope.low_freq_factor > 0 && rope.low_freq_factor <= kMost, where, "low_freq_factor",
        rope.low_freq_factor, "above 0, up to 1e12");
  check(rope.high_freq_factor > rope.low_freq_factor && rope.high_freq_factor <= kMost, where,
        "high_freq_factor", rope.high_freq_factor, "above low_freq_factor, up to 1e12");
  check(rope.beta_slow > 0 && rope.beta_slow <= kMost, where, "beta_slow", rope.beta_slow,
        "above 0, up to 1e12");
  check(rope.beta_fast >= rope.beta_slow && rope.beta_fast <= kMost, where, "beta_fast",
        rope.beta_fast, "beta_slow or more, up to 1e12");
  for (const auto& [key, value] : {std::pair("mscale", rope.mscale),
                                   {"mscale_all_dim", rope.mscale_all_dim},
                                   {"attention_factor", rope.attention_factor}}) {
    check(!value || (*value >= 0 && *value <= kMost), where, key, value.value_or(0), "0 to 1e12");
  }
}

nlohmann::json rope_to_json(const RopeParameters& rope) {
  nlohmann::json json = {{"rope_type", name_of(rope.type)}, {"rope_theta", rope.theta}};
  if (rope.partial_rotary_factor != 1.0) json["partial_rotary_factor"] = rope.partial_rotary_factor;
  if (rope.type != RopeType::kDefault) json["factor"] = rope.factor;
  if (rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn ||
      rope.type == RopeType::kLongrope) {
    json["original_max_position_embeddings"] = rope.original_max_position_embeddings;
  }
  if (rope.type == RopeType::kLlama3) {
    json["low_freq_factor"] = rope.low_freq_factor;
    json["high_freq_factor"] = rope.high_freq_factor;
  }
  if (rope.type == RopeType::kLongrope) {
    json["short_factor"] = rope.short_factor;
    json["long_factor"] = rope.long_factor;
    if (rope.attention_factor) json["attention_factor"] = *rope.attention_factor;
  }
  if (rope.type == RopeType::kYarn) {
    json["beta_fast"] = rope.beta_fast;
    json["beta_slow"] = rope.beta_slow;
    json["truncate"] = rope.truncate;
    if (rope.mscale) json["mscale"] = *rope.mscale;
    if (rope.mscale_all_dim) json["mscale_all_dim"] = *rope.mscale_all_dim;
    if (rope.attention_factor) json["attention_factor"] = *rope.attention_factor;
  }
  return json;
}

}  // namespace qlora::io
