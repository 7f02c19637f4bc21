#include "exporter/base_copy.h"

#include "core/error.h"
#include "exporter/calibration_set.h"
#include "exporter/candidate.h"
#include "exporter/start_codes.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;

model::BlockLoader loader_of(const ExportSource& source) {
  return model::BlockLoader({.model_path = source.model_path,
                             .compute_dtype = source.compute_dtype,
                             .load_in_4bit = false},
                            source.four_bit);
}

/// Nothing of a copy is rounded.
ExportOptions unrounded(const ExportOptions& options) {
  ExportOptions plain = options;
  plain.grid = {.type = QuantizationType::kNone};
  return plain;
}

/// Makes the candidate beside the folder and moves it there.
void write_copy(const CandidateInput& input, const fs::path& folder, RunLog& log) {
  const fs::path work = folder.string() + ".work";
  const Candidate candidate = make_candidate(input, MergeBase::kOriginal, work, log);
  std::error_code error;
  fs::remove_all(folder, error);
  fs::rename(candidate.directory, folder, error);
  QLORA_CHECK(!error, IoError, "[qat] {} cannot be moved to {}: {}", candidate.directory.string(),
              folder.string(), error.message());
  fs::remove_all(work, error);
}

}  // namespace

void fold_awq(const ExportSource& source, const data::ExampleSet& rows,
              const ExportOptions& options, const fs::path& folder, RunLog& log) {
  const model::BlockLoader loader = loader_of(source);
  const Preflight grid = preflight(loader.config(), options.grid);
  const ExportOptions written = unrounded(options);
  const Preflight plain = preflight(loader.config(), written.grid);
  const CalibrationSet calibration =
      make_calibration_set(rows, options.calibration, loader.config().vocab_size, log);
  log.notice(fmt::format("AWQ's scales: searched on {} samples, {} tokens of {}",
                         calibration.samples, calibration.tokens, rows.name));
  const TrainedGrids none;
  write_copy({.loader = loader,
              .adapter = nullptr,
              .four_bit = source.four_bit,
              .preflight = plain,
              .options = written,
              .calibration = &calibration,
              .awq_grid = &grid,
              .trained = none,
              .source = source.model_path,
              .name = folder.filename().string()},
             folder, log);
}

void move_base(const ExportSource& source, const std::string& codes, const ExportOptions& options,
               const fs::path& folder, RunLog& log) {
  const model::BlockLoader loader = loader_of(source);
  const Preflight grid = preflight(loader.config(), options.grid);
  ExportOptions written = unrounded(options);
  written.resume = false;  // a copy takes seconds
  const Preflight plain = preflight(loader.config(), written.grid);
  std::optional<lora::PeftAdapter> adapter;
  if (!source.adapter.empty()) {
    adapter = lora::read_peft_adapter(source.adapter);
    check_adapter(*adapter, loader);
  }
  const StartCodes start(codes, grid, adapter ? &*adapter : nullptr);
  const TrainedGrids none;
  write_copy({.loader = loader,
              .adapter = nullptr,
              .four_bit = source.four_bit,
              .preflight = plain,
              .options = written,
              .calibration = nullptr,
              .start = &start,
              .trained = none,
              .source = source.model_path,
              .name = folder.filename().string()},
             folder, log);
}

}  // namespace qlora::exporter
