#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// What every template may call: those of Jinja2 that chat templates use, and the two of
/// transformers, raise_exception and strftime_now.
std::vector<std::pair<std::string, Value>> global_functions();
std::string known_functions();  // their names, for messages
/// Throws Fault for a name that transformers refuses in a namespace.
void check_attribute_name(const std::string& name);

}  // namespace qlora::data::jinja
