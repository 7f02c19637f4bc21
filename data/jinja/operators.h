#pragma once

#include "data/jinja/ast.h"
#include "data/jinja/value.h"

namespace qlora::data::jinja {

// Python's operators. All throw Fault where Python raises; integers stay within 64 bits.

Value arithmetic(Interpreter& in, Op op, const Value& left, const Value& right);
Value signed_value(const Value& value, bool negative);
bool compare(Interpreter& in, Op op, const Value& left, const Value& right);
bool contains(Interpreter& in, const Value& container, const Value& item);

/// What the filter `escape` makes of a text: & < > ' " as entities.
std::string escape_markup(std::string_view text);

}  // namespace qlora::data::jinja
