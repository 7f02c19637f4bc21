#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/fields.h"

namespace qlora::cli {

enum class LineBreaks { kKeep, kReplace };

/// The text without what a terminal would obey (C0, DEL, C1; tabs stay): '?' stands in its place.
std::string terminal_safe(std::string_view text, LineBreaks breaks);

/// Writes to stdout and flushes. Throws IoError where that fails (a full disk, a closed pipe).
void print(std::string_view text);
void flush_stdout();

/// The one machine-readable object of --json. Bytes that are no UTF-8 become U+FFFD, numbers that
/// are not finite null.
void print_json(const Json& object);

/// An object of facts as lines for people: keys without underscores, nested objects indented,
/// lists of objects as tables. `_bytes` and `_seconds` at the end of a key choose the unit.
std::string facts_text(const Json& facts);

}  // namespace qlora::cli
