#include "exporter/module_patterns.h"

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>

#include "core/error.h"
#include "core/nearest_name.h"
#include "io/foreign_text.h"

namespace qlora::exporter {
namespace {

bool is_plain_name(const std::string& text) {
  return std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
}

/// What a pattern may have meant: whole names and their last parts.
std::vector<std::string> candidates(const std::vector<std::string>& modules) {
  std::set<std::string> names(modules.begin(), modules.end());
  for (const std::string& module : modules) names.insert(module.substr(module.rfind('.') + 1));
  return {names.begin(), names.end()};
}

}  // namespace

bool matches_module(const std::string& module, const std::string& pattern, const std::string& key) {
  if (is_plain_name(pattern)) {
    return module == pattern || module.ends_with("." + pattern);
  }
  try {
    return std::regex_match(module, std::regex(pattern, std::regex::ECMAScript));
  } catch (const std::regex_error& error) {
    throw ConfigError(fmt::format("[export] {} holds {}, which is no regular expression: {}", key,
                                  io::quote(pattern), error.what()));
  }
}

void check_patterns(const std::vector<std::string>& patterns,
                    const std::vector<std::string>& modules, const std::string& key) {
  for (const std::string& pattern : patterns) {
    const bool matches = std::any_of(modules.begin(), modules.end(), [&](const std::string& name) {
      return matches_module(name, pattern, key);
    });
    if (matches) continue;
    const auto nearest = nearest_name(pattern, candidates(modules));
    throw ConfigError(fmt::format("[export] {} holds {}, which matches no linear of the model{}",
                                  key, io::quote(pattern),
                                  nearest ? fmt::format("; did you mean {}?", *nearest) : ""));
  }
}

}  // namespace qlora::exporter
