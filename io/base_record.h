#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace qlora::io {

class Checkpoint;

/// The weights that an adapter was trained on.
struct BaseRecord {
  std::string path;     // where they lay then
  std::string sha256;   // SourceHashes::source
  std::string weights;  // SourceHashes::weights; empty in older records
};

inline constexpr const char* kBaseRecordFile = "base_model.json";

/// The record of the weights at a path.
///   throws    what Checkpoint throws
///   cost      reads the model's files once
BaseRecord base_record_of(const std::string& model_path);

/// Writes kBaseRecordFile beside an adapter. It appears atomically.
///   throws    IoError
void write_base_record(const std::filesystem::path& directory, const BaseRecord& record);

/// The record of an adapter's folder or of its run; nothing where there is none, as with adapters
/// of other programs.
///   throws    FormatError for a file that is no such record
std::optional<BaseRecord> read_base_record(const std::filesystem::path& adapter);

/// What a user should know before an adapter is put on `base`: that its record names other weights.
/// Nothing where they are the same, or where there is no record.
///   throws    as read_base_record
///   cost      reads the files of `base` once where there is a record
std::optional<std::string> base_difference(const std::filesystem::path& adapter,
                                           const Checkpoint& base);
/// The same for weights that have been read.
std::optional<std::string> base_difference(const std::filesystem::path& adapter,
                                           const BaseRecord& base);

/// Folders in which a run may have left facts about an adapter: its own, and for a checkpoint the
/// run's.
std::vector<std::filesystem::path> adapter_places(const std::filesystem::path& adapter);

}  // namespace qlora::io
