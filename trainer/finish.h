#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "model/decoder.h"
#include "trainer/run_facts.h"
#include "trainer/train.h"

namespace qlora::trainer {

/// config.resolved.json, where the caller has handed a configuration over. resume, overwrite and
/// export.overwrite stand in it as their defaults: who trains or exports from this file has not
/// asked for them.
void write_resolved_config(const std::filesystem::path& run_dir, const RunFacts& facts);

/// The adapter in peft's form, the grids, the tokenizer's files, README.md and loss.svg. Each file
/// appears atomically, the adapter last: after a first session it says that the run is finished. A
/// second call writes the same files again.
///   throws    IoError, with no adapter written; FormatError for a tokenizer that changed meanwhile
void write_final_files(const std::filesystem::path& run_dir, const model::Decoder& model,
                       const TrainOptions& options, const RunFacts& facts,
                       const TrainResult& result);

/// An adapter that no step has changed is no result.
///   updates   applied ones of all sessions: Optimizer::updates()
///   throws    ValueError where there is none
void check_trained(int64_t updates, const TrainResult& result);

/// For log.jsonl and --json.
nlohmann::json result_json(const TrainResult& result);

/// For a terminal: a few lines.
std::string summary_text(const TrainResult& result);

}  // namespace qlora::trainer
