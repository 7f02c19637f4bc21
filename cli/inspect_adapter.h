#pragma once

#include <filesystem>

#include "cli/inspect_files.h"
#include "core/fields.h"

namespace qlora::cli {

/// An adapter folder: what adapter_config.json says, what the tensors are, and whether this
/// program can load it.
///   throws    IoError, FormatError where one of the two files is missing or damaged
Json inspect_adapter(const std::filesystem::path& directory, TensorList tensors);

}  // namespace qlora::cli
