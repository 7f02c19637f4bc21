#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "lora/lora_options.h"

namespace qlora::lora {

/// Rank and scale of the adapter of one module.
struct AdapterShape {
  int64_t r = 0;
  double alpha = 0;
  double scale = 0;  // alpha / r, or alpha / sqrt(r)
};

/// Those of `modules` that get an adapter, as PEFT selects them: a list matches name endings at a
/// dot; one entry that is no module name is a regex for the whole name; "all-linear" takes all but
/// the experts of a mixture, which are chosen by name.
///   throws    ConfigError where an entry matches nothing (with the nearest module name) or a
///             regex does not compile; as check_patterns
std::vector<std::string> select_targets(const std::vector<std::string>& modules,
                                        const LoraOptions& options);

/// For patterns that a user writes. PEFT passes over those that match nothing, so what it wrote is
/// not held to this.
///   modules   that get an adapter
///   throws    ConfigError naming a rank_pattern or alpha_pattern that matches none of them
void check_patterns(const LoraOptions& options, const std::vector<std::string>& modules);

/// Patterns in the order in which they are tried: the first that matches counts, as in PEFT.
template <class T>
using OrderedPatterns = std::vector<std::pair<std::string, T>>;

/// The same in the order of an adapter file, which PEFT keeps.
AdapterShape adapter_shape(const std::string& module, const LoraOptions& options,
                           const OrderedPatterns<int64_t>& rank_patterns,
                           const OrderedPatterns<double>& alpha_patterns);

/// Applies the options' rank_pattern and alpha_pattern, in the order of their keys.
AdapterShape adapter_shape(const std::string& module, const LoraOptions& options);

/// "trainable params: 39,976,960 || all params: 6,778,392,576 || trainable%: 0.5898": PEFT's line.
std::string trainable_summary(int64_t trainable, int64_t base);

}  // namespace qlora::lora
