#include "exporter/work_directory.h"

#include <vector>

#include "core/error.h"
#include "exporter/quantize_model.h"

namespace qlora::exporter {

namespace fs = std::filesystem;

fs::path work_directory(const ExportOptions& options) {
  return options.work_dir.empty() ? fs::path(options.output_dir + ".work")
                                  : fs::path(options.work_dir);
}

bool is_worth_resuming(const ExportOptions& options) {
  for (const MergeBase base : {MergeBase::kOriginal, MergeBase::kNf4}) {
    if (has_finished_blocks(work_directory(options) / name_of(base) / "blocks")) return true;
  }
  return false;
}

void remove_work(const ExportOptions& options) {
  std::error_code ignored;
  for (const MergeBase base : {MergeBase::kOriginal, MergeBase::kNf4}) {
    fs::remove_all(work_directory(options) / name_of(base), ignored);
  }
  fs::remove(work_directory(options), ignored);
}

void move_files(const fs::path& from, const fs::path& to) {
  std::error_code error;
  std::vector<fs::path> files;
  for (fs::directory_iterator at(from, error), end; !error && at != end; at.increment(error)) {
    if (at->path().filename() != "manifest.json") files.push_back(at->path());
  }
  QLORA_CHECK(!error, IoError, "[export] {} cannot be read: {}", from.string(), error.message());
  for (const fs::path& file : files) {
    fs::rename(file, to / file.filename(), error);
    if (error) fs::copy_file(file, to / file.filename(), error);
    QLORA_CHECK(!error, IoError, "[export] {} cannot be moved to {}: {}", file.string(),
                to.string(), error.message());
  }
}

}  // namespace qlora::exporter
