#pragma once

#include <map>
#include <string>
#include <vector>

namespace qlora::exporter {

/// Whether a pattern means a module: its name, its ending at a dot ("down_proj",
/// "0.mlp.down_proj"), or a regular expression (ECMAScript) for the whole name, where the pattern
/// is no plain name.
///   throws    ConfigError where it is no regular expression; `key` names the option
bool matches_module(const std::string& module, const std::string& pattern, const std::string& key);

/// throws ConfigError where a pattern matches none of the modules, with the nearest name
void check_patterns(const std::vector<std::string>& patterns,
                    const std::vector<std::string>& modules, const std::string& key);

}  // namespace qlora::exporter
