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

/// Makes the copy beside the folder, rounding nothing, and moves it there.
///   calibration  nullptr where the purpose needs none
///   Errors       leave nothing; after an interruption the finished blocks stay
void write_copy(const model::BlockLoader& loader, const ExportSource& source,
                const ExportOptions& options, const CalibrationSet* calibration,
                const CopyPurpose& purpose, const fs::path& folder, RunLog& log) {
  ExportOptions unrounded = options;
  unrounded.grid = {.type = QuantizationType::kNone};
  const Preflight plain = preflight(loader.config(), unrounded.grid);
  const TrainedGrids none;
  const CandidateInput input{.loader = loader,
                             .adapter = nullptr,
                             .four_bit = source.four_bit,
                             .preflight = plain,
                             .options = unrounded,
                             .calibration = calibration,
                             .copy = purpose,
                             .trained = none,
                             .source = source.model_path,
                             .name = folder.filename().string()};
  const fs::path work = folder.string() + ".work";
  std::error_code error;
  try {
    const Candidate candidate = make_candidate(input, MergeBase::kOriginal, work, log);
    fs::remove_all(folder, error);
    fs::rename(candidate.directory, folder, error);
    QLORA_CHECK(!error, IoError, "[qat] {} cannot be moved to {}: {}", candidate.directory.string(),
                folder.string(), error.message());
  } catch (const Error&) {
    fs::remove_all(work, error);
    throw;
  }
  fs::remove_all(work, error);
}

}  // namespace

void fold_awq(const ExportSource& source, const data::ExampleSet& rows,
              const ExportOptions& options, const fs::path& folder, RunLog& log) {
  const model::BlockLoader loader = loader_of(source);
  const Preflight grid = preflight(loader.config(), options.grid);
  const CalibrationSet calibration =
      make_calibration_set(rows, options.calibration, loader.config().vocab_size, log);
  log.notice(fmt::format("AWQ's scales: searched on {} samples, {} tokens of {}",
                         calibration.samples, calibration.tokens, rows.name));
  write_copy(loader, source, options, &calibration, {.awq_grid = &grid}, folder, log);
}

void move_base(const ExportSource& source, const std::string& codes, const ExportOptions& options,
               const fs::path& folder, RunLog& log) {
  const model::BlockLoader loader = loader_of(source);
  const Preflight grid = preflight(loader.config(), options.grid);
  std::optional<lora::PeftAdapter> adapter;
  if (!source.adapter.empty()) {
    adapter = lora::read_peft_adapter(source.adapter);
    check_adapter(*adapter, loader);
  }
  const StartCodes start(codes, grid, adapter ? &*adapter : nullptr);
  ExportOptions anew = options;
  anew.resume = false;  // it takes seconds, and the blocks' fingerprint knows no codes
  write_copy(loader, source, anew, nullptr, {.start = &start}, folder, log);
}

}  // namespace qlora::exporter
