#pragma once

#include <filesystem>

#include "core/fields.h"
#include "core/run_log.h"

namespace qlora::cli {

/// A run directory holds log.jsonl.
bool is_run_directory(const std::filesystem::path& path);

/// What a run was asked, how its losses went, what it left behind. It is finished where its last
/// session ended with an adapter that can be loaded; what is wrong with one that cannot is a fact,
/// as with checkpoints.
///   log       is told once how many lines of log.jsonl cannot be read
///   throws    IoError, FormatError where other files cannot be read
///   cost      reads the adapter
Json inspect_run(const std::filesystem::path& directory, RunLog& log);

}  // namespace qlora::cli
