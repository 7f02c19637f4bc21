#pragma once

#include <torch/types.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "exporter/calibration_pass.h"
#include "exporter/export_options.h"
#include "exporter/merged_weights.h"
#include "exporter/preflight.h"
#include "exporter/start_codes.h"
#include "exporter/weight_grids.h"
#include "quant/affine.h"
#include "quant/nf4.h"

namespace qlora::exporter {

/// What became of one linear.
struct LinearReport {
  std::string module;
  int64_t rows = 0, cols = 0;
  int64_t bits = 0;            // 16: left as it was
  int64_t group_size = 0;      // 0: no groups
  double mse = 0;              // mean squared error of a weight
  double sqnr_db = 0;          // signal to quantization noise of the weights
  double objective_rtn = 0;    // output error of plain rounding on the calibration samples,
  double objective = 0;        // and of what was written; both 0 without calibration
  double damp_percent = 0;     // gptq: of the mean diagonal, as used in the end
  int64_t damp_increases = 0;  // gptq
  std::string fallback;        // gptq: why plain rounding was taken; empty: it was not
  int64_t dead_columns = 0;    // inputs that are always zero
  double alpha = 0;            // awq, smoothquant: exponent of the scales at this site
  double adapter_change = 0;   // RMS of s·B·A over the RMS of the grid's step; 0 without adapter
  double seconds = 0;
  std::string weight_sha256;  // of the rounded weight as floats: what a reader has to find
};
nlohmann::json to_json(const LinearReport& report);
LinearReport linear_report_from_json(const nlohmann::json& json);

double mean_square(const torch::Tensor& values);

/// Sets mse and sqnr_db; a weight without any error has no finite ratio, and 0 stands for it.
void set_rounding_error(const torch::Tensor& original, const torch::Tensor& rounded,
                        LinearReport& report);

/// SHA-256 over the floats of a matrix.
std::string weight_hash(const torch::Tensor& weight);

struct NamedTensor {
  std::string name;  // as in the written checkpoint
  torch::Tensor tensor;
};

/// One block as it is written.
struct QuantizedBlock {
  std::vector<NamedTensor> tensors;
  std::vector<LinearReport> linears;
  double seconds = 0;
};

/// The tensors of a rounded linear as a format names them ("qweight", …).
///   Requires  a format of integer grids
quant::TensorMap pack_affine(ExportFormat format, const quant::AffineTensor& rounded);

/// Why weights are written in 16 bits that are not the model's own; at most one is not null.
struct CopyPurpose {
  const Preflight* awq_grid = nullptr;  // scaled as AWQ would for this grid
  const StartCodes* start = nullptr;    // moved into the cells of these codes
};

/// Turns the merged weights of a block into what is written.
///   Sequence  gptq: q, k, v are rounded first, then o on what the rounded q, k, v make of the
///             samples, then gate and up, then down; awq and smoothquant look at the whole block
///             with its original weights first
class BlockQuantizer {
 public:
  /// dtype     of everything that is not quantized, kHalf or kBFloat16
  /// trained   what the grid of a run that trained on it is made of
  /// copy      what a 16-bit copy is made for; nothing: weights are rounded to the preflight's grid
  BlockQuantizer(const Preflight& preflight, const ExportOptions& options,
                 const quant::Nf4Options& four_bit, torch::ScalarType dtype,
                 const TrainedGrids& trained, const CopyPurpose& copy = {});

  /// pass      at this block, left at its end; nullptr where the grid needs no calibration
  ///   throws  ValueError where weights or activations are not finite; Interrupted
  QuantizedBlock solve(int64_t index, const model::BlockLoader& loader,
                       const MergedWeights& weights, CalibrationPass* pass) const;

 private:
  const Preflight& preflight_;
  ExportOptions options_;
  quant::Nf4Options four_bit_;
  torch::ScalarType dtype_;
  const TrainedGrids& trained_;
  CopyPurpose copy_;
};

}  // namespace qlora::exporter
