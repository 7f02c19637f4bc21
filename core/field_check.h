#pragma once

#include <optional>
#include <string>

#include "core/fields.h"

namespace qlora::detail {

/// The value in the one form that Field::set takes: whole numbers as integers, a single string as
/// a list of one. Nothing where the type is wrong or the member cannot hold it.
std::optional<Json> normalised(const FieldType& type, const Json& value);

/// Whether a normalised value meets the constraint.
bool satisfies(const Json& value, const Constraint& constraint);

std::string type_text(const FieldType& type);  // "a whole number"; enumerations: "a string"
/// "1 to 1024", "> 0", "one of \"a\", \"b\"", "not empty"; empty where anything goes.
std::string constraint_text(const FieldType& type, const Constraint& constraint);
std::string allowed_text(const Field& field);  // both, for messages
std::string actual_text(const Json& value);    // "the string \"eight\"", "nan"; cut where long
std::string quoted(const std::string& text);   // one line, whatever the text holds

/// Checks, normalises and stores. Throws ConfigError.
///   path      of the key, dotted
///   place     where it was found, e.g. "(configs/a.json, at /lora/r)"; may be empty
void assign(const Field& field, const Json& value, const std::string& path,
            const std::string& place);

}  // namespace qlora::detail
