#pragma once

#include <string>
#include <string_view>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// What stands behind `is`.
using Test = bool (*)(Interpreter&, const Value&, Arguments&);

Test find_test(std::string_view name);              // null: not known
std::string unknown_test(const std::string& name);  // the message

}  // namespace qlora::data::jinja
