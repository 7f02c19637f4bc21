#include "exporter/base_copy.h"

#include "core/error.h"
#include "core/json_file.h"
#include "exporter/calibration_set.h"
#include "exporter/candidate.h"
#include "exporter/start_codes.h"
#include "io/atomic_file.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;

/// In a copy's folder: the fingerprint of what it was made of.
constexpr const char* kRecordFile = "qlora_copy.json";

model::BlockLoader loader_of(const ExportSource& source) {
  return model::BlockLoader({.model_path = source.model_path,
                             .compute_dtype = source.compute_dtype,
                             .load_in_4bit = false},
                            source.four_bit);
}

/// Of the options those that a copy depends on.
ExportOptions copy_options(const ExportOptions& options) {
  ExportOptions unrounded;
  unrounded.grid = {.type = QuantizationType::kNone};
  unrounded.calibration = options.calibration;
  unrounded.awq = options.awq;
  unrounded.max_shard_size = options.max_shard_size;
  unrounded.resume = options.resume;
  return unrounded;
}

/// throws ConfigError where the copy in the folder was made of something else
void check_record(const fs::path& folder, const std::string& fingerprint) {
  const fs::path file = folder / kRecordFile;
  const Json record = fs::exists(file) ? read_json_file(file) : Json();
  const bool is_same =
      record.is_object() && record.value("fingerprint", Json()) == Json(fingerprint);
  QLORA_CHECK(is_same, ConfigError,
              "[qat] {} is there, but was made of other weights, rows or settings than this run "
              "has; resume with those, or move it away and begin anew",
              folder.string());
}

/// Makes the copy beside the folder, rounding nothing, and moves it there.
///   calibration  nullptr where the purpose needs none
///   Errors       leave nothing; after an interruption the finished blocks stay
void write_copy(const model::BlockLoader& loader, const ExportSource& source,
                const ExportOptions& options, const CalibrationSet* calibration,
                const CopyPurpose& purpose, const fs::path& folder, IfMade made, RunLog& log) {
  const ExportOptions unrounded = copy_options(options);
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
  const std::string identity = fingerprint(input, MergeBase::kOriginal);
  if (made == IfMade::kReuse && fs::exists(folder)) return check_record(folder, identity);
  const fs::path work = folder.string() + ".work";
  std::error_code error;
  try {
    const Candidate candidate = make_candidate(input, MergeBase::kOriginal, work, log);
    io::write_file_atomic(candidate.directory / kRecordFile,
                          Json{{"fingerprint", identity}}.dump(2) + "\n");
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
              const ExportOptions& options, const fs::path& folder, IfMade made, RunLog& log) {
  const model::BlockLoader loader = loader_of(source);
  const Preflight grid = preflight(loader.config(), options.grid);
  const CalibrationSet calibration =
      make_calibration_set(rows, options.calibration, loader.config().vocab_size, log);
  if (made == IfMade::kReplace || !fs::exists(folder)) {
    log.notice(fmt::format("AWQ's scales: searched on {} samples, {} tokens of {}",
                           calibration.samples, calibration.tokens, rows.name));
  }
  write_copy(loader, source, options, &calibration, {.awq_grid = &grid}, folder, made, log);
}

void move_base(const ExportSource& source, const std::string& codes, const ExportOptions& options,
               const fs::path& folder, IfMade made, RunLog& log) {
  const model::BlockLoader loader = loader_of(source);
  const Preflight grid = preflight(loader.config(), options.grid);
  std::optional<lora::PeftAdapter> adapter;
  if (!source.adapter.empty()) {
    adapter = lora::read_peft_adapter(source.adapter);
    check_adapter(*adapter, loader);
  }
  const StartCodes start(codes, grid, adapter ? &*adapter : nullptr);
  write_copy(loader, source, options, nullptr, {.start = &start}, folder, made, log);
}

}  // namespace qlora::exporter
