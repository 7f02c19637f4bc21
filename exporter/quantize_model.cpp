#include "exporter/quantize_model.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "core/clock.h"
#include "core/error.h"
#include "core/json_file.h"
#include "core/progress.h"
#include "exporter/interrupted.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "io/sha256.h"
#include "lora/tensor_view.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJournal = "journal.json";

fs::path block_file(const fs::path& directory, int64_t index) {
  return directory / fmt::format("block-{:05}.safetensors", index);
}

/// SHA-256 of the finished blocks' files, where the directory holds the work of the same export.
std::optional<std::vector<std::string>> read_journal(const fs::path& directory,
                                                     const std::string& fingerprint,
                                                     int64_t block_count) {
  std::error_code error;
  if (!fs::exists(directory / kJournal, error)) return std::nullopt;
  try {
    const nlohmann::json journal = read_json_file(directory / kJournal);
    if (journal.at("fingerprint") != fingerprint) return std::nullopt;
    auto hashes = journal.at("blocks").get<std::vector<std::string>>();
    if (static_cast<int64_t>(hashes.size()) > block_count) return std::nullopt;
    return hashes;
  } catch (const std::exception&) {
    return std::nullopt;  // a damaged journal: begin anew
  }
}

void write_journal(const fs::path& directory, const std::string& fingerprint,
                   const std::vector<std::string>& hashes) {
  const nlohmann::json journal = {{"fingerprint", fingerprint}, {"blocks", hashes}};
  io::write_file_atomic(directory / kJournal, journal.dump(2) + "\n");
}

void start_over(const fs::path& directory) {
  std::error_code error;
  fs::remove_all(directory, error);
  fs::create_directories(directory, error);
  QLORA_CHECK(!error, IoError, "[export] the work directory {} cannot be made: {}",
              directory.string(), error.message());
}

void write_block(const fs::path& file, const QuantizedBlock& block) {
  std::vector<io::TensorView> views;
  for (const NamedTensor& named : block.tensors)
    views.push_back(lora::tensor_view(named.name, named.tensor));
  nlohmann::json reports = nlohmann::json::array();
  for (const LinearReport& report : block.linears) reports.push_back(to_json(report));
  io::write_safetensors(file, views,
                        {{"linears", reports.dump()}, {"seconds", std::to_string(block.seconds)}});
}

/// The reports that a finished block's file holds.
void read_reports(const fs::path& file, QuantizedBlocks& result) {
  const io::SafetensorsReader reader(file);
  for (const auto& report : nlohmann::json::parse(reader.metadata().at("linears"))) {
    result.linears.push_back(linear_report_from_json(report));
  }
  result.seconds += std::stod(reader.metadata().at("seconds"));
}

/// The finished blocks of an interrupted run; nothing where what it left is damaged.
std::optional<QuantizedBlocks> read_finished(const fs::path& work_dir,
                                             const std::vector<std::string>& hashes, RunLog& log) {
  QuantizedBlocks result;
  try {
    for (const std::string& hash : hashes) {
      result.files.push_back(block_file(work_dir, result.resumed_blocks));
      QLORA_CHECK(io::sha256_file(result.files.back()) == hash, FormatError,
                  "its SHA-256 is not the journal's");
      read_reports(result.files.back(), result);
      ++result.resumed_blocks;
    }
  } catch (const std::exception& error) {
    log.warn(fmt::format("{} is damaged ({}); the export begins anew",
                         result.files.back().filename().string(), error.what()));
    return std::nullopt;
  }
  return result;
}

/// "block 3/30: output error 0.41 of plain rounding's, 12.3 s, 5m20s left"
std::string block_line(int64_t index, int64_t count, const QuantizedBlock& block, double left) {
  double rtn = 0, solved = 0, squares = 0;
  int64_t fallbacks = 0;
  for (const LinearReport& report : block.linears) {
    rtn += report.objective_rtn;
    solved += report.objective;
    squares += report.sqnr_db / static_cast<double>(block.linears.size());
    fallbacks += !report.fallback.empty();
  }
  std::string text = fmt::format("block {}/{}: {:.1f} dB", index + 1, count, squares);
  if (rtn > 0) text += fmt::format(", output error {:.3f} of plain rounding's", solved / rtn);
  if (fallbacks > 0) text += fmt::format(", {} matrices fell back to plain rounding", fallbacks);
  return text + fmt::format(", {}, {} left", duration_text(block.seconds), duration_text(left));
}

void log_block(int64_t index, int64_t count, const QuantizedBlock& block, double left,
               RunLog& log) {
  for (const LinearReport& report : block.linears) {
    log.event("linear", to_json(report));
    if (!report.fallback.empty()) {
      log.warn(fmt::format("{}: {}; rounded to nearest instead", report.module, report.fallback));
    }
  }
  log.live(index + 1 < count ? block_line(index, count, block, left) : "");
}

}  // namespace

bool has_finished_blocks(const fs::path& work_dir) {
  std::error_code error;
  return fs::exists(block_file(work_dir, 0), error);
}

QuantizedBlocks quantize_blocks(const model::BlockLoader& loader, const MergedWeights& weights,
                                const BlockQuantizer& quantizer, const CalibrationSet* calibration,
                                const fs::path& work_dir, const std::string& fingerprint,
                                RunLog& log) {
  const int64_t count = loader.block_count();
  const bool calibrates = calibration != nullptr;
  std::vector<std::string> hashes;
  std::optional<QuantizedBlocks> finished;
  if (auto journal = read_journal(work_dir, fingerprint, count)) {
    hashes = std::move(*journal);
    finished = read_finished(work_dir, hashes, log);
  }
  const int64_t width = loader.config().hidden_size;
  if (finished && finished->resumed_blocks > 0 && finished->resumed_blocks < count && calibrates &&
      !CalibrationPass::has_input(work_dir, finished->resumed_blocks, *calibration, width)) {
    log.warn("the activations of the interrupted export are gone; it begins anew");
    finished.reset();
  }
  if (!finished) {
    start_over(work_dir);
    hashes.clear();
  }
  QuantizedBlocks result = finished ? std::move(*finished) : QuantizedBlocks{};
  if (result.resumed_blocks > 0) {
    log.notice(fmt::format("resuming: {} of {} blocks are quantized already", result.resumed_blocks,
                           count));
  }
  std::optional<CalibrationPass> pass;
  if (calibrates && result.resumed_blocks < count) {
    pass.emplace(loader, *calibration, work_dir, result.resumed_blocks);
  }
  const Stopwatch watch;
  for (int64_t i = result.resumed_blocks; i < count; ++i) {
    check_stop_request();
    const QuantizedBlock block = quantizer.solve(i, loader, weights, pass ? &*pass : nullptr);
    if (pass) pass->next_block();  // the next input is on the disk before the block counts as done
    result.files.push_back(block_file(work_dir, i));
    write_block(result.files.back(), block);
    hashes.push_back(io::sha256_file(result.files.back()));
    write_journal(work_dir, fingerprint, hashes);
    result.linears.insert(result.linears.end(), block.linears.begin(), block.linears.end());
    result.seconds += block.seconds;
    const auto done = static_cast<double>(i + 1 - result.resumed_blocks);
    log_block(i, count, block, watch.seconds() / done * static_cast<double>(count - i - 1), log);
  }
  return result;
}

}  // namespace qlora::exporter
