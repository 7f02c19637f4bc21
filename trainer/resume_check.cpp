#include "trainer/resume_check.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/error.h"

namespace qlora::trainer {
namespace {

using nlohmann::json;  // two objects are the same in any order of their keys

constexpr std::array kMustMatch = {"seed", "per_device_train_batch_size",
                                   "gradient_accumulation_steps", "packing", "shuffle"};

constexpr std::array kShapesLosses = {
    "learning_rate",     "weight_decay",        "adam_beta1",   "adam_beta2",    "adam_epsilon",
    "lr_scheduler_type", "warmup_ratio",        "warmup_steps", "max_grad_norm", "max_steps",
    "num_train_epochs",  "neftune_noise_alpha", "loss_scaling"};

// Of the sections: what makes another model. init_adapter does not: the states take its place.
constexpr std::array kLoraKeys = {"r",          "lora_alpha",    "lora_dropout", "target_modules",
                                  "use_rslora", "adapter_dtype", "rank_pattern", "alpha_pattern"};
constexpr std::array kQuantizationKeys = {"load_in_4bit", "bnb_4bit_quant_type", "block_size",
                                          "bnb_4bit_use_double_quant"};

json value_of(const json& object, const std::string& key) {
  const auto found = object.find(key);
  return found == object.end() ? json() : *found;
}

/// Paged or not, the states are the same bytes.
bool has_8bit_states(const json& options) {
  return value_of(options, "optim") != "adamw_torch";
}

/// On one short line.
std::string text_of(const json& value) {
  constexpr size_t kLongest = 100;
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() <= kLongest) return text;
  size_t end = kLongest;
  while ((text[end] & 0xC0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "…";
}

struct Difference {
  std::string key;
  json saved, now;
};

/// The first key at or below `key` whose values differ.
std::optional<Difference> first_difference(const std::string& key, const json& saved,
                                           const json& now) {
  if (saved == now) return std::nullopt;
  if (!saved.is_object() || !now.is_object()) return Difference{key, saved, now};
  json both = saved;
  both.update(now);
  for (const auto& [name, unused] : both.items()) {
    const std::string below = fmt::format("{}.{}", key, name);
    if (auto found = first_difference(below, value_of(saved, name), value_of(now, name))) {
      return found;
    }
  }
  return std::nullopt;
}

void check_same(const std::string& key, const json& saved, const json& now) {
  const auto differs = first_difference(key, saved, now);
  QLORA_CHECK(!differs, ConfigError,
              "[trainer] {} is {}, the checkpoint was made with {}; a resumed run needs the same",
              differs->key, text_of(differs->now), text_of(differs->saved));
}

/// Compares the keys that the checkpoint knows; `prefix` is the section's name for its user.
void check_same_section(const std::string& prefix, const json& saved, const json& now,
                        std::span<const char* const> keys) {
  for (const std::string key : keys) {
    if (!saved.contains(key)) continue;
    json before = value_of(saved, key), after = value_of(now, key);
    for (json* list : {&before, &after}) {  // the same modules in any order
      if (key == "target_modules" && list->is_array()) std::sort(list->begin(), list->end());
    }
    check_same(prefix + "." + key, before, after);
  }
}

/// What is rounded to: section qat of the configuration, and the keys of section export that it
/// took its grid from.
void check_same_qat(const json& saved, const json& now) {
  const json off = {{"section", {{"scheme", "none"}}}};
  const json before = saved.is_null() ? off : saved, after = now.is_null() ? off : now;
  const json scheme = value_of(value_of(before, "section"), "scheme");
  check_same("qat.scheme", scheme, value_of(value_of(after, "section"), "scheme"));
  for (const auto& [part, section] : {std::pair("section", "qat"), std::pair("grid", "export")}) {
    const json held = value_of(before, part);
    for (const auto& [key, value] : held.items()) {
      check_same(fmt::format("{}.{}", section, key), value, value_of(value_of(after, part), key));
    }
  }
}

}  // namespace

Json identity_json(const TrainOptions& options, const RunFacts& facts) {
  Json identity = write_fields(options);
  identity["lora"] = write_fields(facts.lora);
  const auto quantization = facts.config.find("quantization");
  if (quantization != facts.config.end()) identity["quantization"] = *quantization;
  if (!facts.qat.is_null()) identity["qat"] = facts.qat;
  return identity;
}

void check_same_options(const Json& saved_options, const Json& options_now, RunLog& log) {
  const json saved(saved_options), now(options_now);
  QLORA_CHECK(has_8bit_states(saved) == has_8bit_states(now), ConfigError,
              "[trainer] optim is {}, the checkpoint was made with {}; the states of one are not "
              "those of the other",
              text_of(value_of(now, "optim")), text_of(value_of(saved, "optim")));
  for (const char* key : kMustMatch) check_same(key, value_of(saved, key), value_of(now, key));
  check_same_section("lora", value_of(saved, "lora"), value_of(now, "lora"), kLoraKeys);
  const json quantization = value_of(now, "quantization");
  if (!quantization.is_null()) {
    check_same_section("quantization", value_of(saved, "quantization"), quantization,
                       kQuantizationKeys);
  }
  check_same_qat(value_of(saved, "qat"), value_of(now, "qat"));
  const bool is_constant = value_of(now, "lr_scheduler_type") == "constant";
  for (const std::string key : kShapesLosses) {
    const bool is_length = key == "max_steps" || key == "num_train_epochs";
    if (value_of(saved, key) == value_of(now, key) || (is_length && is_constant)) continue;
    log.warn(
        fmt::format("[trainer] {} is {}, the checkpoint was made with {}: the losses will "
                    "differ from those of one run",
                    key, text_of(value_of(now, key)), text_of(value_of(saved, key))));
  }
}

void check_same_base(const std::filesystem::path& checkpoint, const io::BaseRecord& base) {
  const auto difference = io::base_difference(checkpoint, base);
  QLORA_CHECK(!difference, ConfigError,
              "[trainer] {}; a resumed run needs the same base; where it is the same model in "
              "another form, delete {} beside the checkpoint",
              difference.value_or(""), io::kBaseRecordFile);
}

void check_within_run(const std::filesystem::path& checkpoint, int64_t step, int64_t total_steps) {
  QLORA_CHECK(step <= total_steps, ConfigError,
              "[trainer] {} is of step {}, but the run has {} steps; raise max_steps or "
              "num_train_epochs, or resume from an earlier checkpoint",
              checkpoint.string(), step, total_steps);
}

}  // namespace qlora::trainer
