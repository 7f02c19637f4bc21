#include "lora/targets.h"

#include <fmt/ranges.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "core/error.h"
#include "core/nearest_name.h"

namespace qlora::lora {

namespace {

/// A compiled pattern that has to match a whole name.
class WholeNameRegex {
 public:
  WholeNameRegex(const std::string& pattern, const std::string& key) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    const std::string anchored = "(?:" + pattern + ")";
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(anchored.data()), anchored.size(),
                              PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &offset,
                              nullptr));
    if (code_) return;
    char text[256] = {};
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof(text));
    throw ConfigError(fmt::format("[lora] {} holds '{}', which is no regular expression: {}", key,
                                  pattern, text));
  }

  bool matches(const std::string& name) const {
    const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
        pcre2_match_data_create_from_pattern(code_.get(), nullptr), pcre2_match_data_free);
    return pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                       data.get(), nullptr) >= 0;
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  std::unique_ptr<pcre2_code, Free> code_;
};

bool ends_at_dot(const std::string& name, const std::string& ending) {
  if (name == ending) return true;
  return name.size() > ending.size() && name.ends_with(ending) &&
         name[name.size() - ending.size() - 1] == '.';
}

bool is_plain_name(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
  });
}

/// The last component: what users write in target_modules.
std::string last_component(const std::string& module) {
  const auto dot = module.rfind('.');
  return dot == std::string::npos ? module : module.substr(dot + 1);
}

[[noreturn]] void throw_no_match(const std::string& target,
                                 const std::vector<std::string>& modules) {
  std::vector<std::string> endings;
  for (const auto& module : modules) {
    const auto ending = last_component(module);
    if (std::find(endings.begin(), endings.end(), ending) == endings.end())
      endings.push_back(ending);
  }
  throw ConfigError(fmt::format(
      "[lora] target_modules holds '{}', which matches no linear of this model; did you mean '{}'? "
      "Allowed: \"all-linear\", or endings of {}",
      target, nearest_name(target, endings).value_or(endings.front()), fmt::join(endings, ", ")));
}

/// Experts are many and a token reaches few of them: they are adapted where they are named.
std::vector<std::string> all_linear(const std::vector<std::string>& modules) {
  std::vector<std::string> selected;
  std::copy_if(modules.begin(), modules.end(), std::back_inserter(selected),
               [](const std::string& name) { return name.find(".experts.") == std::string::npos; });
  return selected;
}

/// PEFT's reading of a pattern: a name's ending, or a regex for one.
WholeNameRegex pattern_regex(const std::string& pattern, const char* key) {
  return {"(?:.*\\.)?(?:" + pattern + ")", key};
}

/// throws ConfigError for a pattern that matches none of the modules
template <class T>
void check_each_matches(const std::map<std::string, T>& patterns,
                        const std::vector<std::string>& modules, const char* key) {
  for (const auto& [pattern, value] : patterns) {
    const WholeNameRegex regex = pattern_regex(pattern, key);
    QLORA_CHECK(std::any_of(modules.begin(), modules.end(),
                            [&](const std::string& name) { return regex.matches(name); }),
                ConfigError,
                "[lora] {} has '{}', which matches none of the {} adapted modules, such as {}; "
                "correct it or leave it out",
                key, pattern, modules.size(), modules.empty() ? "none" : modules.front());
  }
}

/// Value of the first pattern that names the module, or fallback.
template <class T>
T from_pattern(const OrderedPatterns<T>& patterns, const std::string& module, T fallback,
               const char* key) {
  for (const auto& [pattern, value] : patterns) {
    if (pattern_regex(pattern, key).matches(module)) return value;
  }
  return fallback;
}

/// Those of `modules` that target_modules names.
std::vector<std::string> named_targets(const std::vector<std::string>& modules,
                                       const std::vector<std::string>& targets) {
  QLORA_CHECK(!targets.empty(), ConfigError,
              "[lora] target_modules is empty; allowed: \"all-linear\" or a list of names");
  if (targets.size() == 1 && targets[0] == "all-linear") return all_linear(modules);

  std::vector<std::string> selected;
  if (targets.size() == 1 && !is_plain_name(targets[0])) {
    const WholeNameRegex regex(targets[0], "target_modules");
    std::copy_if(modules.begin(), modules.end(), std::back_inserter(selected),
                 [&](const std::string& name) { return regex.matches(name); });
    if (selected.empty()) throw_no_match(targets[0], modules);
    return selected;
  }
  for (const auto& target : targets) {
    const auto hit = [&](const std::string& name) { return ends_at_dot(name, target); };
    if (std::none_of(modules.begin(), modules.end(), hit)) throw_no_match(target, modules);
  }
  std::copy_if(
      modules.begin(), modules.end(), std::back_inserter(selected), [&](const std::string& name) {
        return std::any_of(targets.begin(), targets.end(),
                           [&](const std::string& target) { return ends_at_dot(name, target); });
      });
  return selected;
}

}  // namespace

void check_patterns(const LoraOptions& options, const std::vector<std::string>& modules) {
  check_each_matches(options.rank_pattern, modules, "rank_pattern");
  check_each_matches(options.alpha_pattern, modules, "alpha_pattern");
}

std::vector<std::string> select_targets(const std::vector<std::string>& modules,
                                        const LoraOptions& options) {
  auto selected = named_targets(modules, options.target_modules);
  check_patterns(options, selected);
  return selected;
}

AdapterShape adapter_shape(const std::string& module, const LoraOptions& options,
                           const OrderedPatterns<int64_t>& rank_patterns,
                           const OrderedPatterns<double>& alpha_patterns) {
  AdapterShape shape;
  shape.r = from_pattern(rank_patterns, module, options.r, "rank_pattern");
  shape.alpha = from_pattern(alpha_patterns, module, options.lora_alpha, "alpha_pattern");
  QLORA_CHECK(shape.r >= 1 && shape.r <= 1024, ConfigError,
              "[lora] the rank of {} is {}, allowed 1 to 1024", module, shape.r);
  const double r = static_cast<double>(shape.r);
  shape.scale = shape.alpha / (options.use_rslora ? std::sqrt(r) : r);
  return shape;
}

AdapterShape adapter_shape(const std::string& module, const LoraOptions& options) {
  return adapter_shape(module, options, {options.rank_pattern.begin(), options.rank_pattern.end()},
                       {options.alpha_pattern.begin(), options.alpha_pattern.end()});
}

std::string trainable_summary(int64_t trainable, int64_t base) {
  const auto grouped = [](int64_t number) {
    std::string digits = std::to_string(number);
    for (int64_t i = static_cast<int64_t>(digits.size()) - 3; i > 0; i -= 3) {
      digits.insert(static_cast<size_t>(i), 1, ',');
    }
    return digits;
  };
  const int64_t all = trainable + base;
  return fmt::format("trainable params: {} || all params: {} || trainable%: {:.4f}",
                     grouped(trainable), grouped(all),
                     100.0 * static_cast<double>(trainable) / static_cast<double>(all));
}

}  // namespace qlora::lora
