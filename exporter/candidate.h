#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "data/tokenizer.h"
#include "exporter/calibration_set.h"
#include "exporter/export_options.h"
#include "exporter/merged_weights.h"
#include "exporter/preflight.h"
#include "exporter/quantize_model.h"
#include "exporter/weight_grids.h"

namespace qlora::exporter {

/// What all candidates of one export share.
struct CandidateInput {
  const model::BlockLoader& loader;  // the source's 16-bit weights
  const lora::PeftAdapter* adapter;  // nullptr: none
  quant::Nf4Options four_bit;        // of the base that the adapter was trained on
  const Preflight& preflight;
  const ExportOptions& options;
  const CalibrationSet* calibration;  // nullptr: the type needs none
  CopyPurpose copy = {};              // the source is only scaled or moved
  const TrainedGrids& trained;        // of the adapter's run; empty: it trained on no grid
  std::filesystem::path source;       // of tokenizer and small files
  std::string name;                   // of the model, for people
  std::vector<data::NamedTemplate> chat_templates;  // of the adapter; empty: those of the source
};

/// A complete model folder that may become the result.
struct Candidate {
  MergeBase base = MergeBase::kOriginal;
  std::filesystem::path directory;  // weights, config and tokenizer; no report yet
  std::filesystem::path
      model_path;  // what a loader is given: the directory, or the GGUF file in it
  std::vector<LinearReport> linears;
  double seconds = 0;  // of the solvers
  int64_t resumed_blocks = 0;
  uint64_t bytes = 0;  // of the weights on disk
};

/// Merges into one base, quantizes, writes work_dir/BASE/model, reads it back and checks that every
/// linear is, bit for bit, what the solver made; for GGUF, that it is near its merged weight.
///   throws    what the parts throw; FormatError where the check fails (a bug, never data)
Candidate make_candidate(const CandidateInput& input, MergeBase base,
                         const std::filesystem::path& work_dir, RunLog& log);

/// Everything that decides which weights a candidate holds, as a SHA-256.
std::string fingerprint(const CandidateInput& input, MergeBase base);

/// "fp16" or "bf16" formats keep what is not quantized in this type.
torch::ScalarType plain_dtype(const ResolvedGrid& grid, const io::HfConfig& source);

}  // namespace qlora::exporter
