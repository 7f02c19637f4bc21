#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// What stands behind "|".
using Filter = Value (*)(Interpreter&, const Value&, Arguments&);

Filter find_filter(std::string_view name);            // null: not known
std::string unknown_filter(const std::string& name);  // the message

using FilterTable = std::vector<std::pair<std::string_view, Filter>>;
const FilterTable& text_filters();      // filters_text.cpp
const FilterTable& sequence_filters();  // filters_sequence.cpp
const FilterTable& picking_filters();   // filters_picking.cpp
const FilterTable& number_filters();    // filters_number.cpp

/// "a.b.0" of the argument `attribute` of a filter, looked up item by item.
///   fallback  what stands for an undefined step; null: nothing does
Value nested_item(const Value& item, const Value& attribute, const Value* fallback = nullptr);
/// Texts in lower case where case does not count; other kinds as they are.
Value without_case(Interpreter& in, const Value& value);

}  // namespace qlora::data::jinja
