#pragma once

#include <string>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// object.name: a method or attribute where the kind has one, else the item of that name; undefined
/// where there is neither.
///   throws    Fault for an undefined object, and for what Python knows and this program does not
Value attribute_of(const Value& object, const std::string& name);
/// object[index]: the item, else the attribute of that name.
Value item_of(const Value& object, const Value& index);
/// object[start:stop:step]; none for a bound that is not given.
Value slice_of(const Value& object, const Value& start, const Value& stop, const Value& step);

/// The methods of texts, dictionaries and lists (methods_*.cpp): a bound function, or undefined
/// where the kind has no such attribute. Throws Fault for one that Python has and this program has
/// not.
Value text_method(const Value& text, const std::string& name);
Value collection_method(const Value& collection, const std::string& name);

}  // namespace qlora::data::jinja
