#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

using Variables = std::vector<std::pair<std::string, Value>>;

/// The members of an object as what a template finds by name.
inline Variables variables_of(const nlohmann::ordered_json& object) {
  Variables out;
  for (const auto& [name, value] : object.items()) out.emplace_back(name, from_json(value));
  return out;
}

}  // namespace qlora::data::jinja
