#include "trainer/run_directory.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <system_error>

#include "core/error.h"
#include "io/atomic_file.h"
#include "trainer/loss_curve.h"

namespace qlora::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr const char* kDeleting = ".deleting-";  // a checkpoint on its way out

/// What a run writes beside its checkpoints.
constexpr const char* kRunFiles[] = {"config.resolved.json",
                                     "log.jsonl",
                                     "runs",
                                     "README.md",
                                     "loss.svg",
                                     "report.html",
                                     "report.json",
                                     "adapter_model.safetensors",
                                     "adapter_config.json"};

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  QLORA_CHECK(!error, IoError, "[trainer] cannot delete {}: {}", path.string(), error.message());
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

RunStart check_run_directory(const TrainOptions& options, RunLog& log) {
  const fs::path run_dir = options.output_dir;
  const bool is_there =
      fs::exists(run_dir) && !(fs::is_directory(run_dir) && fs::is_empty(run_dir));
  QLORA_CHECK(!is_there || fs::is_directory(run_dir), ConfigError,
              "[trainer] output_dir {} is a file, allowed: a directory or a name that is free",
              run_dir.string());
  QLORA_CHECK(options.resume.empty() || !options.overwrite, ConfigError,
              "[trainer] resume is \"{}\" and overwrite is true, allowed: one of the two",
              options.resume);
  if (options.resume.empty()) {
    QLORA_CHECK(!is_there || options.overwrite, ConfigError,
                "[trainer] output_dir {} exists; go on with --resume auto, start over with "
                "--overwrite, or choose another output_dir",
                run_dir.string());
    return {.run_dir = run_dir, .checkpoint = std::nullopt};
  }
  if (options.resume == "auto") {
    const auto checkpoint = newest_complete(run_dir, log);
    if (!checkpoint && is_there) {
      log.notice(fmt::format("{} holds no complete checkpoint: the run starts from the beginning",
                             run_dir.string()));
    }
    return {.run_dir = run_dir, .checkpoint = checkpoint};
  }
  const fs::path named = options.resume;
  QLORA_CHECK(fs::is_directory(named), IoError,
              "[trainer] resume names {}, which is no directory; allowed: auto, or the folder of a "
              "checkpoint",
              named.string());
  io::verify_manifest(named);
  const bool is_own = is_there && fs::equivalent(fs::canonical(named).parent_path(), run_dir);
  QLORA_CHECK(!is_there || is_own, ConfigError,
              "[trainer] output_dir {} exists and is not the run of {}; choose a new output_dir",
              run_dir.string(), named.string());
  return {.run_dir = run_dir, .checkpoint = named};
}

void prepare_run_directory(const TrainOptions& options, const RunStart& start, int64_t step) {
  std::error_code error;
  fs::create_directories(start.run_dir, error);
  QLORA_CHECK(!error, IoError, "[trainer] cannot make output_dir {}: {}", start.run_dir.string(),
              error.message());
  if (options.overwrite) {
    for (const char* name : kRunFiles) remove_tree(start.run_dir / name);
  }
  for (const CheckpointPath& old : list_checkpoints(start.run_dir)) {
    if (options.overwrite || old.step > step) remove_tree(old.path);
  }
  cut_log(start.run_dir / "log.jsonl", step);
}

std::vector<CheckpointPath> list_checkpoints(const fs::path& run_dir) {
  std::vector<CheckpointPath> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run_dir, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !entry.is_directory()) continue;
    int64_t step = 0;
    const char* end = name.data() + name.size();
    const auto [stop, problem] = std::from_chars(name.data() + kPrefix.size(), end, step);
    if (problem == std::errc() && stop == end && step >= 0) found.push_back({step, entry.path()});
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
