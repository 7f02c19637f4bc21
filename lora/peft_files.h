#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lora/lora_linear.h"
#include "lora/lora_options.h"

namespace qlora::lora {

/// One adapter folder in memory: adapter_config.json and adapter_model.safetensors.
struct PeftAdapter {
  struct Matrices {
    torch::Tensor a;  // [R, K] f32
    torch::Tensor b;  // [N, R] f32
    double alpha = 0;
    double scale = 0;  // as peft computes it from the file
  };
  LoraOptions options;                      // r, alpha, patterns, rsLoRA, dropout as the file says
  std::string base_model;                   // base_model_name_or_path
  std::map<std::string, Matrices> modules;  // by "model.layers.0.self_attn.q_proj"
};

/// Reads what peft wrote.
///   throws    FormatError naming what is not supported (modules_to_save, DoRA, bias, a resized
///             vocabulary, a start that changed the base as PiSSA's, …), a missing half, ranks that
///             contradict the configuration, matrices of another type than floats, numbers that are
///             not finite; IoError for a missing file
PeftAdapter read_peft_adapter(const std::filesystem::path& directory);

/// Holds section lora, whose init_adapter was read, against that adapter: rank, alpha and rsLoRA of
/// every module.
///   returns   one line for the user where the section leaves them all at their defaults and the
///             adapter has others, which then count; nothing where both agree
///   throws    ConfigError naming the values where the section says something else; as
///             check_patterns
std::optional<std::string> check_init_adapter(const PeftAdapter& adapter,
                                              const LoraOptions& section);

/// Writes adapter_config.json with the keys that every peft version reads, then
/// adapter_model.safetensors in each adapter's dtype. Both files appear atomically; the second says
/// that the adapter is complete.
///   throws    ValueError where an adapter is not finite in its dtype
void write_peft_adapter(const std::filesystem::path& directory,
                        const std::vector<NamedAdapter>& adapters, const LoraOptions& options,
                        const std::string& base_model);

}  // namespace qlora::lora
