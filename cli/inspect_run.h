#pragma once

#include <filesystem>

#include "core/fields.h"

namespace qlora::cli {

/// A run directory holds log.jsonl.
bool is_run_directory(const std::filesystem::path& path);

/// What a run was asked, how its losses went, what it left behind.
///   throws    IoError, FormatError where its files cannot be read
Json inspect_run(const std::filesystem::path& directory);

}  // namespace qlora::cli
