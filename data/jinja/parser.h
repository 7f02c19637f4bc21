#pragma once

#include <string>
#include <string_view>

#include "data/jinja/ast.h"

namespace qlora::data::jinja {

/// Deepest nesting of a template's constructs: neither parsing nor rendering runs out of stack.
inline constexpr int kMaxNodeDepth = 200;

/// Reads a template by the grammar of Jinja2 3.1, with the extensions that transformers loads:
/// loopcontrols and {% generation %}.
///   text      valid UTF-8, at most kMaxTemplateBytes
///   name      of the template, for messages
///   throws    FormatError, with the line, for a syntax error, for statements that are not known
///             (include, import, block …), and for filters and tests that are not known and that do
///             not stand in an `if`; those fail when they are reached, as in Jinja2
Program parse(std::string_view text, const std::string& name);

inline constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

}  // namespace qlora::data::jinja
