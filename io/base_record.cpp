#include "io/base_record.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_file.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"

namespace qlora::io {

namespace fs = std::filesystem;

namespace {

BaseRecord record_of(const Checkpoint& base, const std::string& path) {
  const SourceHashes hashes = base.source_hashes();
  return {.path = path, .sha256 = hashes.source, .weights = hashes.weights};
}

}  // namespace

BaseRecord base_record_of(const std::string& model_path) {
  return record_of(Checkpoint(model_path), model_path);
}

void write_base_record(const fs::path& directory, const BaseRecord& record) {
  const nlohmann::ordered_json json = {
      {"path", record.path}, {"sha256", record.sha256}, {"weights_sha256", record.weights}};
  write_file_atomic(directory / kBaseRecordFile, json.dump(2) + "\n");
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
    BaseRecord record{.path = text("path"), .sha256 = text("sha256"), .weights = {}};
    if (json.contains("weights_sha256")) record.weights = text("weights_sha256");
    return record;
  }
  return std::nullopt;
}

std::optional<std::string> base_difference(const fs::path& adapter, const Checkpoint& base) {
  if (!read_base_record(adapter)) return std::nullopt;
  return base_difference(adapter, record_of(base, base.path().string()));
}

std::optional<std::string> base_difference(const fs::path& adapter, const BaseRecord& base) {
  constexpr size_t kShown = 12;  // of a hash
  const auto recorded = read_base_record(adapter);
  if (!recorded) return std::nullopt;
  const bool knows_weights = !recorded->weights.empty();
  const std::string& then = knows_weights ? recorded->weights : recorded->sha256;
  const std::string& now = knows_weights ? base.weights : base.sha256;
  if (then == now) return std::nullopt;
  return fmt::format(
      "the adapter {} was trained on {} with other weights than {} (SHA-256 {}…, here {}…)",
      adapter.string(), recorded->path, base.path, then.substr(0, kShown), now.substr(0, kShown));
}

}  // namespace qlora::io
