#pragma once

#include <string>
#include <string_view>

#include "io/gguf.h"

namespace qlora::io {

/// A message of the checks that a config.json goes through as well, for one that was made of a GGUF
/// file's metadata: names of config.json become the keys of the file.
///   message   begins with "[io] PATH: ", which stays as it is
///   family    general.architecture, the prefix of the keys
std::string in_gguf_keys(std::string_view message, const GgufReader& gguf, std::string_view family);

}  // namespace qlora::io
