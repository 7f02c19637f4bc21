#include "io/base_record.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_file.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"

namespace qlora::io {

namespace fs = std::filesystem;

BaseRecord base_record_of(const std::string& model_path) {
  return {.path = model_path, .sha256 = Checkpoint(model_path).source_hash()};
}

void write_base_record(const fs::path& directory, const BaseRecord& record) {
  const nlohmann::ordered_json json = {{"path", record.path}, {"sha256", record.sha256}};
  write_file_atomic(directory / kBaseRecordFile, json.dump(2) + "\n");
}

void write_base_record(const fs::path& directory, const std::string& model_path) {
  write_base_record(directory, base_record_of(model_path));
}

std::vector<fs::path> adapter_places(const fs::path& adapter) {
  const fs::path folder = adapter.lexically_normal();
  std::vector<fs::path> places = {folder};
  const fs::path name = folder.has_filename() ? folder.filename() : folder.parent_path().filename();
  if (name.string().starts_with("checkpoint-")) places.push_back(folder / "..");
  return places;
}

std::optional<BaseRecord> read_base_record(const fs::path& adapter) {
  for (const fs::path& place : adapter_places(adapter)) {
    const fs::path file = place / kBaseRecordFile;
    if (!is_present(file)) continue;
    const auto json = read_json_file(file);
    const auto text = [&](const char* key) {
      const auto found = json.is_object() ? json.find(key) : json.end();
      QLORA_CHECK(found != json.end() && found->is_string(), FormatError,
                  "[io] {} has no text '{}', allowed the record that training writes; delete it "
                  "to take the adapter without it",
                  file.string(), key);
      return found->get<std::string>();
    };
    return BaseRecord{.path = text("path"), .sha256 = text("sha256")};
  }
  return std::nullopt;
}

std::optional<std::string> base_difference(const fs::path& adapter, const Checkpoint& base) {
  const auto recorded = read_base_record(adapter);
  if (!recorded) return std::nullopt;
  const std::string hash = base.source_hash();
  if (hash == recorded->sha256) return std::nullopt;
  return fmt::format(
      "the adapter {} was trained on {} with other weights than {} (SHA-256 {}…, here {}…)",
      adapter.string(), recorded->path, base.path().string(), recorded->sha256.substr(0, 12),
      hash.substr(0, 12));
}

}  // namespace qlora::io
