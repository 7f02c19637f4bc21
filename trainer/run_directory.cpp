#include "trainer/run_directory.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/base_record.h"
#include "lora/grid_files.h"
#include "trainer/loss_curve.h"
#include "trainer/tensorboard_log.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr const char* kDeleting = ".deleting-";  // a checkpoint on its way out

/// Files that tell a run's directory from another one.
constexpr const char* kRunMarks[] = {"log.jsonl", "config.resolved.json"};

/// What else a run writes beside its checkpoints, TensorBoard's events and the tokenizer's files.
constexpr const char* kRunFiles[] = {
    "README.md",           "loss.svg",          "adapter_model.safetensors",
    "adapter_config.json", io::kBaseRecordFile, lora::kGridFile};

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  QLORA_CHECK(!error, IoError, "[trainer] cannot delete {}: {}", path.string(), error.message());
}

/// Removes a file or a link; a directory of that name is not a run's.
void remove_file(const fs::path& path) {
  std::error_code error;
  const fs::file_type type = fs::symlink_status(path, error).type();
  if (type != fs::file_type::regular && type != fs::file_type::symlink) return;
  fs::remove(path, error);
  QLORA_CHECK(!error, IoError, "[trainer] cannot delete {}: {}", path.string(), error.message());
}

/// Removes the event files in TensorBoard's folder, and the folder where nothing else is in it.
void remove_events(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(fs::symlink_status(folder, error))) return;
  std::vector<fs::path> events;
  for (fs::directory_iterator it(folder, error), end; it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with(kEventFilePrefix)) events.push_back(it->path());
  }
  for (const fs::path& event : events) remove_file(event);
  fs::remove(folder, error);  // fails, as it should, where something is left
}

/// Removes what an earlier run wrote, its marks last: what was cut short can be done again.
void remove_run(const fs::path& run_dir) {
  for (const CheckpointPath& old : list_checkpoints(run_dir)) remove_tree(old.path);
  remove_events(run_dir / "runs");
  for (const char* name : kRunFiles) remove_file(run_dir / name);
  for (const char* name : kRunMarks) remove_file(run_dir / name);
}

/// A run has written here, and not something else that has files of the same names.
bool holds_run(const fs::path& directory) {
  const auto is_file = [](const fs::path& path) {
    std::error_code error;
    return fs::is_regular_file(path, error);
  };
  const auto checkpoints = list_checkpoints(directory);
  return std::ranges::any_of(kRunMarks,
                             [&](const char* name) { return is_file(directory / name); }) ||
         std::ranges::any_of(checkpoints, [&](const CheckpointPath& checkpoint) {
           return is_file(checkpoint.path / "manifest.json");
         });
}

/// Whether something in a run's folder may hold what was trained: the adapter or grids of its end,
/// a checkpoint in whatever state, or one that was cut off just before it got its name.
bool holds_training(const fs::path& run_dir) {
  const auto is_there = [](const fs::path& path) {
    std::error_code error;
    return fs::symlink_status(path, error).type() != fs::file_type::not_found;
  };
  const auto entries = io::entries_of(run_dir);
  return is_there(run_dir / "adapter_model.safetensors") || is_there(run_dir / lora::kGridFile) ||
         std::ranges::any_of(entries, [&](const fs::path& entry) {
           return entry.filename().string().starts_with(kPrefix) ||
                  is_there(entry / "manifest.json");
         });
}

/// A run has opened its log there, left nothing that was trained, and is not at work any more.
bool ended_before_it_saved(const fs::path& run_dir) {
  std::error_code error;
  return fs::is_regular_file(run_dir / "log.jsonl", error) && !holds_training(run_dir) &&
         !may_be_held_elsewhere(run_dir);
}

/// What lies at output_dir or a folder above it; not_found where the name is free.
fs::file_type type_of(const fs::path& path, const fs::path& output_dir) {
  std::error_code error, unseen;
  const fs::file_type type = fs::status(path, error).type();
  QLORA_CHECK(type != fs::file_type::none, IoError,
              "[trainer] output_dir {} cannot be used: {}; choose another output_dir",
              output_dir.string(), error.message());
  const bool is_link = fs::is_symlink(fs::symlink_status(path, unseen));
  QLORA_CHECK(type != fs::file_type::not_found || !is_link, IoError,
              "[trainer] output_dir {} cannot be used: {} is a link to what is not there; choose "
              "another output_dir, or delete the link",
              output_dir.string(), path.string());
  return type;
}

/// Told before any work: a directory that cannot be made or written. Looks, and changes nothing.
void check_can_be_written(const fs::path& output_dir) {
  for (const fs::path& name : output_dir) {
    QLORA_CHECK(name.native().size() <= NAME_MAX, IoError,
                "[trainer] output_dir has a name of {} bytes, allowed: up to {}; choose a shorter "
                "one ({})",
                name.native().size(), NAME_MAX, output_dir.string());
  }
  fs::path place = output_dir;  // the nearest one that is there
  fs::file_type type = type_of(place, output_dir);
  while (type == fs::file_type::not_found) {
    place = io::parent_of(place);
    type = type_of(place, output_dir);
  }
  QLORA_CHECK(type == fs::file_type::directory, ConfigError,
              "[trainer] output_dir {}: {} is a file, allowed: a directory or a name that is free",
              output_dir.string(), place.string());
  const int needed = place == output_dir ? R_OK | W_OK | X_OK : W_OK | X_OK;
  const int problem = ::access(place.c_str(), needed) == 0 ? 0 : errno;
  QLORA_CHECK(problem == 0, IoError,
              "[trainer] output_dir {} cannot be written: {}: {}; choose another output_dir",
              output_dir.string(), place.string(), std::strerror(problem));
}

bool has_entries(const fs::path& directory) {
  return std::ranges::any_of(io::entries_of(directory), [](const fs::path& entry) {
    return entry.filename() != kLockFile;  // left by a run that was killed, or the caller's own
  });
}

/// The checkpoint that resume names.
///   is_there  output_dir holds something: then only a checkpoint of its own is taken
fs::path named_checkpoint(const TrainOptions& options, bool is_there) {
  const fs::path named = options.resume;
  std::error_code error;
  QLORA_CHECK(fs::is_directory(named, error), IoError,
              "[trainer] resume names {}, which is no directory; allowed: auto, or the folder of a "
              "checkpoint",
              named.string());
  const bool has_manifest = fs::exists(named / "manifest.json", error);
  if (!has_manifest && holds_run(named)) {
    const auto checkpoints = list_checkpoints(named);
    const std::string newest =
        checkpoints.empty() ? "there is none" : "the newest is " + checkpoints.back().path.string();
    throw ConfigError(
        fmt::format("[trainer] resume names {}, which is the folder of a run, allowed: a "
                    "checkpoint in it ({}), or auto with this folder as output_dir",
                    named.string(), newest));
  }
  io::verify_manifest(named);
  const fs::path home = fs::canonical(named, error).parent_path();
  const bool is_own = is_there && fs::equivalent(home, options.output_dir, error);
  QLORA_CHECK(!is_there || is_own, ConfigError,
              "[trainer] output_dir {} exists and is not the run of {}; choose a new output_dir",
              options.output_dir, named.string());
  return named;
}

std::optional<fs::path> newest_complete(const fs::path& run_dir, RunLog& log) {
  const auto checkpoints = list_checkpoints(run_dir);
  for (auto newest = checkpoints.rbegin(); newest != checkpoints.rend(); ++newest) {
    const auto problem = io::manifest_problem(newest->path);
    if (!problem) return newest->path;
    log.warn(fmt::format("[trainer] {} is not complete and is passed over: {}",
                         newest->path.string(), *problem));
  }
  return std::nullopt;
}

}  // namespace

RunStart check_run_directory(const TrainOptions& options, RunLog& log, const RunLock* held) {
  const fs::path run_dir = options.output_dir;
  check_can_be_written(run_dir);
  if (held == nullptr) check_not_locked(run_dir);
  const bool is_there = has_entries(run_dir);
  QLORA_CHECK(options.resume.empty() || !options.overwrite, ConfigError,
              "[trainer] resume is \"{}\" and overwrite is true, allowed: one of the two",
              options.resume);
  const bool is_auto = options.resume == "auto";
  if (!options.resume.empty() && !is_auto) {
    return {.run_dir = run_dir, .checkpoint = named_checkpoint(options, is_there)};
  }
  const bool is_plain = !options.overwrite && !is_auto;
  if (is_plain && is_there && ended_before_it_saved(run_dir)) {
    log.notice(
        fmt::format("{} holds a run that ended before it saved anything: this one begins "
                    "there anew",
                    run_dir.string()));
    return {.run_dir = run_dir, .checkpoint = std::nullopt};
  }
  QLORA_CHECK(!is_there || !is_plain, ConfigError,
              "[trainer] output_dir {} exists; go on with --resume auto, start over with "
              "--overwrite, or choose another output_dir",
              run_dir.string());
  QLORA_CHECK(!is_there || holds_run(run_dir), ConfigError,
              "[trainer] output_dir {} is not empty and holds no run (no log.jsonl, "
              "config.resolved.json or complete checkpoint), so nothing in it is removed; choose "
              "another output_dir, or empty this one",
              run_dir.string());
  if (!is_auto) {
    return {.run_dir = run_dir, .checkpoint = std::nullopt, .starts_over = options.overwrite};
  }
  const auto checkpoint = newest_complete(run_dir, log);
  if (!checkpoint && is_there) {
    log.notice(fmt::format("{} holds no complete checkpoint: the run starts from the beginning",
                           run_dir.string()));
  }
  return {.run_dir = run_dir, .checkpoint = checkpoint};
}

void prepare_run_directory(const RunStart& start, int64_t step) {
  std::error_code error;
  fs::create_directories(start.run_dir, error);
  QLORA_CHECK(!error, IoError, "[trainer] cannot make output_dir {}: {}", start.run_dir.string(),
              error.message());
  if (start.starts_over) remove_run(start.run_dir);
  for (const CheckpointPath& old : list_checkpoints(start.run_dir)) {
    if (old.step > step) remove_tree(old.path);
  }
  cut_log(start.run_dir / "log.jsonl", step);
}

std::vector<CheckpointPath> list_checkpoints(const fs::path& run_dir) {
  std::vector<CheckpointPath> found;
  std::error_code error, unseen;
  for (fs::directory_iterator it(run_dir, error), all_seen; it != all_seen; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(kPrefix) || !it->is_directory(unseen)) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [stop, problem] = std::from_chars(name.data() + kPrefix.size(), end, step);
    if (problem == std::errc() && stop == end && step >= 0) found.push_back({step, it->path()});
  }
  std::sort(found.begin(), found.end(),
            [](const CheckpointPath& a, const CheckpointPath& b) { return a.step < b.step; });
  return found;
}

fs::path checkpoint_path(const fs::path& run_dir, int64_t step) {
  return run_dir / fmt::format("{}{}", kPrefix, step);
}

void prune_checkpoints(const fs::path& run_dir, int64_t limit, int64_t keep) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error)) {  // of a run that was killed
    if (entry.path().filename().string().starts_with(kDeleting)) remove_tree(entry.path());
  }
  if (limit <= 0) return;
  const auto checkpoints = list_checkpoints(run_dir);
  auto left = static_cast<int64_t>(checkpoints.size());
  for (size_t i = 0; i + 1 < checkpoints.size() && left > limit; ++i) {
    if (checkpoints[i].step == keep) continue;
    const fs::path leaving = run_dir / (kDeleting + checkpoints[i].path.filename().string());
    fs::rename(checkpoints[i].path, leaving, error);
    QLORA_CHECK(!error, IoError, "[trainer] cannot delete {}: {}", checkpoints[i].path.string(),
                error.message());
    remove_tree(leaving);
    --left;
  }
}

}  // namespace qlora::trainer
