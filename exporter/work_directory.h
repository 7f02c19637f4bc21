#pragma once

#include <filesystem>

#include "exporter/export_options.h"

namespace qlora::exporter {

/// Where an export keeps what it has not published yet: options.work_dir, or beside its output.
std::filesystem::path work_directory(const ExportOptions& options);

/// Finished blocks lie there: the same command goes on from them.
bool is_worth_resuming(const ExportOptions& options);

/// Removes what an export makes in its work directory, and the directory where nothing else is in
/// it: a directory that the user named may hold more.
void remove_work(const ExportOptions& options);

/// Moves all files but the manifest, over file systems too.
///   throws    IoError
void move_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace qlora::exporter
