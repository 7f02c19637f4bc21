#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace qlora::io {

/// Text of a foreign file, fit for a one-line message: quoted, control bytes and non-ASCII escaped,
/// cut after 80 bytes.
std::string quote(std::string_view text);

/// True for well-formed UTF-8 (no overlong forms, no surrogates, nothing above U+10FFFF).
bool is_utf8(std::string_view text);

}  // namespace qlora::io
