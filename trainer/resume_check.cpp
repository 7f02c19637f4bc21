#include "trainer/resume_check.h"

#include <array>
#include <string>

#include "core/error.h"

namespace qlora::trainer {
namespace {

constexpr std::array kMustMatch = {
    "seed", "per_device_train_batch_size", "gradient_accumulation_steps", "packing", "shuffle",
    "qat"};

constexpr std::array kShapesLosses = {
    "learning_rate",     "weight_decay",        "adam_beta1",   "adam_beta2",    "adam_epsilon",
    "lr_scheduler_type", "warmup_ratio",        "warmup_steps", "max_grad_norm", "max_steps",
    "num_train_epochs",  "neftune_noise_alpha", "loss_scaling"};

/// Plain JSON: two objects are the same in any order of their keys.
nlohmann::json value_of(const Json& options, const std::string& key) {
  const auto found = options.find(key);
  return found == options.end() ? nlohmann::json() : nlohmann::json(*found);
}

/// Paged or not, the states are the same bytes.
bool has_8bit_states(const Json& options) {
  return value_of(options, "optim") != "adamw_torch";
}

}  // namespace

void check_same_options(const Json& saved, const Json& now, RunLog& log) {
  QLORA_CHECK(has_8bit_states(saved) == has_8bit_states(now), ConfigError,
              "[trainer] optim is {}, the checkpoint was made with {}; the states of one are not "
              "those of the other",
              value_of(now, "optim").dump(), value_of(saved, "optim").dump());
  for (const char* key : kMustMatch) {
    QLORA_CHECK(value_of(saved, key) == value_of(now, key), ConfigError,
                "[trainer] {} is {}, the checkpoint was made with {}; a resumed run needs the same",
                key, value_of(now, key).dump(), value_of(saved, key).dump());
  }
  const bool is_constant = value_of(now, "lr_scheduler_type") == "constant";
  for (const std::string key : kShapesLosses) {
    const bool is_length = key == "max_steps" || key == "num_train_epochs";
    if (value_of(saved, key) == value_of(now, key) || (is_length && is_constant)) continue;
    log.warn(
        fmt::format("[trainer] {} is {}, the checkpoint was made with {}: the losses will "
                    "differ from those of one run",
                    key, value_of(now, key).dump(), value_of(saved, key).dump()));
  }
}

}  // namespace qlora::trainer
