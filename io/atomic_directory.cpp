#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/strict_json.h"

namespace qlora::io {
namespace fs = std::filesystem;
namespace {

constexpr const char* kManifest = "manifest.json";
constexpr uint64_t kManifestLimitBytes = 64 << 20;

/// Type of what a path names, without throwing: none where it names nothing that can be seen.
fs::file_type type_of(const fs::path& path) {
  std::error_code error;
  return fs::status(path, error).type();
}

bool is_there(const fs::path& path) {
  return type_of(path) != fs::file_type::not_found && type_of(path) != fs::file_type::none;
}

void sync_file(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const int failed = descriptor >= 0 && ::fsync(descriptor) == 0 ? 0 : errno;
  if (descriptor >= 0) ::close(descriptor);
  if (failed != 0) fail_write(path, failed, 0);
}

/// Makes every file and folder below `root` durable and lists the files.
nlohmann::json sync_tree(const fs::path& root) {
  nlohmann::json files = nlohmann::json::object();
  for (const auto& item : fs::recursive_directory_iterator(root)) {
    if (item.is_directory() && !item.is_symlink()) {
      sync_directory(item.path());
      continue;
    }
    QLORA_CHECK(item.is_regular_file() && !item.is_symlink(), IoError,
                "[io] {}: neither file nor directory; a saved directory may hold no links",
                item.path().string());
    sync_file(item.path());
    files[item.path().lexically_relative(root).generic_string()] = {
        {"bytes", item.file_size()}, {"sha256", sha256_file(item.path())}};
  }
  return files;
}

bool stays_inside(const fs::path& path) {
  if (path.empty() || path.is_absolute()) return false;
  for (const fs::path& part : path) {
    if (part == ".." || part == ".") return false;
  }
  return true;
}

std::string problem_of_file(const fs::path& directory, const std::string& name,
                            const nlohmann::json& entry) {
  const bool sound = entry.is_object() && entry.contains("bytes") &&
                     entry["bytes"].is_number_unsigned() && entry.contains("sha256") &&
                     entry["sha256"].is_string();
  if (!sound || !stays_inside(name))
    return fmt::format("manifest.json lists {} in a wrong way", quote(name));
  const fs::path path = directory / name;
  if (type_of(path) != fs::file_type::regular) return fmt::format("{} is missing", quote(name));
  const uint64_t actual = fs::file_size(path);
  const auto expected = entry["bytes"].get<uint64_t>();
  if (actual != expected)
    return fmt::format("{} has {} bytes, saved were {}", quote(name), actual, expected);
  if (sha256_file(path) != entry["sha256"].get_ref<const std::string&>()) {
    return fmt::format("{} has changed since it was saved (SHA-256 differs)", quote(name));
  }
  return {};
}

}  // namespace

AtomicDirectory::AtomicDirectory(fs::path target, IfExists if_exists)
    : target_(target.has_filename() ? std::move(target) : target.parent_path()),
      if_exists_(if_exists),
      temporary_(target_, Temporary::Kind::kDirectory) {
  QLORA_CHECK(!is_there(target_) || type_of(target_) == fs::file_type::directory, IoError,
              "[io] {}: exists and is no directory; choose another name", target_.string());
  QLORA_CHECK(if_exists_ == IfExists::kReplace || !is_there(target_), IoError,
              "[io] {}: exists already; choose another name or ask for it to be replaced",
              target_.string());
}

void AtomicDirectory::commit() {
  nlohmann::json manifest;
  try {
    manifest = {{"version", 1}, {"files", sync_tree(path())}};
  } catch (const fs::filesystem_error& error) {
    throw IoError(fmt::format("[io] {}: cannot be saved: {}", target_.string(), error.what()));
  }
  write_file_atomic(path() / kManifest, manifest.dump(1) + "\n");
  sync_directory(path());
  QLORA_CHECK(if_exists_ == IfExists::kReplace || !is_there(target_), IoError,
              "[io] {}: appeared while it was being saved; the save is dropped", target_.string());
  temporary_.rename_to(target_);
}

std::optional<std::string> manifest_problem(const fs::path& directory) {
  const fs::path path = directory / kManifest;
  if (type_of(path) != fs::file_type::regular)
    return directory.string() + ": no manifest.json, so it is not complete";
  try {
    const auto manifest = parse_strict_json(read_file(path, kManifestLimitBytes), path.string());
    const bool sound = manifest.is_object() && manifest.contains("version") &&
                       manifest["version"] == 1 && manifest.contains("files") &&
                       manifest["files"].is_object();
    if (!sound) return path.string() + ": not a manifest of version 1";
    for (const auto& [name, entry] : manifest["files"].items()) {
      const std::string problem = problem_of_file(directory, name, entry);
      if (!problem.empty()) return fmt::format("{}: {}", directory.string(), problem);
    }
  } catch (const FormatError& broken) {
    return broken.what();
  } catch (const fs::filesystem_error& broken) {
    return broken.what();
  }
  return std::nullopt;
}

void verify_manifest(const fs::path& directory) {
  const auto problem = manifest_problem(directory);
  QLORA_CHECK(!problem, FormatError, "[io] {}; take an older save, or save again", *problem);
}

}  // namespace qlora::io
