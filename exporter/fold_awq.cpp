#include "exporter/fold_awq.h"

#include "core/error.h"
#include "exporter/calibration_set.h"
#include "exporter/candidate.h"

namespace qlora::exporter {

void fold_awq(const ExportSource& source, const data::ExampleSet& rows,
              const ExportOptions& options, const std::filesystem::path& folder, RunLog& log) {
  namespace fs = std::filesystem;
  const model::BlockLoader loader({.model_path = source.model_path,
                                   .compute_dtype = source.compute_dtype,
                                   .load_in_4bit = false},
                                  source.four_bit);
  const Preflight grid = preflight(loader.config(), options.grid);
  ExportOptions written = options;
  written.grid = {.type = QuantizationType::kNone};
  const Preflight plain = preflight(loader.config(), written.grid);
  const CalibrationSet calibration =
      make_calibration_set(rows, options.calibration, loader.config().vocab_size, log);
  log.notice(fmt::format("AWQ's scales: searched on {} samples, {} tokens of {}",
                         calibration.samples, calibration.tokens, rows.name));
  const TrainedGrids none;
  const CandidateInput input{.loader = loader,
                             .adapter = nullptr,
                             .four_bit = source.four_bit,
                             .preflight = plain,
                             .options = written,
                             .calibration = &calibration,
                             .awq_grid = &grid,
                             .trained = none,
                             .source = source.model_path,
                             .name = folder.filename().string()};
  const fs::path work = folder.string() + ".work";
  const Candidate candidate = make_candidate(input, MergeBase::kOriginal, work, log);
  std::error_code error;
  fs::remove_all(folder, error);
  fs::rename(candidate.directory, folder, error);
  QLORA_CHECK(!error, IoError, "[qat] {} cannot be moved to {}: {}", candidate.directory.string(),
              folder.string(), error.message());
  fs::remove_all(work, error);
}

}  // namespace qlora::exporter
