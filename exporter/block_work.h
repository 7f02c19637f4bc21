#pragma once

#include <torch/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "exporter/block_quantizer.h"
#include "quant/fp8.h"

namespace qlora::exporter {

/// A linear of the block that is being quantized.
struct LinearWork {
  lora::LoraLinear* linear = nullptr;  // in BlockWork::block
  io::LinearSlot slot = io::LinearSlot::kQuery;
  Site site = Site::kAttentionIn;
  torch::Tensor original;                    // [N, K] f32, merged, as the model had it
  torch::Tensor weight;                      // [N, K] f32, what is rounded: original, or scaled
  std::optional<quant::AffineOptions> grid;  // nothing: stays in 16 bits, or is no integer grid
  LinearReport report;
};

/// One block on its way through a solver: its linears are replaced one by one by what was rounded,
/// so that the samples see it.
class BlockWork {
 public:
  BlockWork(int64_t index, const model::BlockLoader& loader, const MergedWeights& weights,
            const Preflight& preflight, const quant::Nf4Options& four_bit, torch::ScalarType dtype);

  int64_t index = 0;
  model::DecoderBlock block;
  std::vector<LinearWork> linears;  // in DecoderBlock's order

  const io::HfConfig& config() const { return config_; }

  /// The linears that read at a site.
  std::vector<LinearWork*> at(Site site);
  /// The linear that computes this, or the fused one with it; nullptr where neither is there.
  LinearWork* with(io::LinearSlot slot, io::LinearSlot fused);

  /// Puts the rounded weight in the block's place and among what is written.
  ///   input_scale   [K]: the weight stands for inputs divided by it; undefined: ones. The errors
  ///                 that are reported are those of the original weight
  void place(LinearWork& work, const quant::AffineTensor& rounded,
             const torch::Tensor& input_scale = {});
  void place(LinearWork& work, const quant::Fp8Tensor& rounded);
  /// Rounded to NF4 as it was given to the constructor.
  void place_nf4(LinearWork& work);
  /// The one scale [1] of its inputs, beside the codes that were placed.
  void add_input_scale(const LinearWork& work, const torch::Tensor& scale);
  /// Stays in 16 bits: `work.weight`, rounded to dtype.
  void place_plain(LinearWork& work, const torch::Tensor& input_scale = {});

  /// A norm as it is written: rounded to dtype, less the family's offset. The block computes with
  /// the rounded one.
  torch::Tensor rounded_norm(const torch::Tensor& norm) const;

  /// Norms, biases, tensors and reports together. Every linear has been placed.
  QuantizedBlock finish();

 private:
  void place_dense(LinearWork& work, const torch::Tensor& dense, const torch::Tensor& input_scale);
  void add(const std::string& name, const torch::Tensor& tensor);
  /// Rounded to dtype_; throws ValueError where a number leaves it.
  torch::Tensor checked_16bit(const torch::Tensor& values, const std::string& name) const;

  /// Norms of the block beside the names of their files.
  std::vector<std::pair<std::string, torch::Tensor*>> norms();

  const io::HfConfig& config_;
  ExportFormat format_;
  quant::Nf4Options four_bit_;
  torch::ScalarType dtype_;          // of what is not quantized
  torch::ScalarType compute_dtype_;  // of the samples' pass
  Stopwatch watch_;
  QuantizedBlock result_;
};

// The solvers; each places every linear and leaves the pass at the end of the block.
void solve_plain(BlockWork& work, const ResolvedGrid& grid);  // rtn, nf4, fp8 by token, none
void solve_gptq(BlockWork& work, const ExportOptions& options, CalibrationPass& pass);
void solve_awq(BlockWork& work, const ExportOptions& options, CalibrationPass& pass);
void solve_smoothquant(BlockWork& work, const ExportOptions& options, CalibrationPass& pass);
void solve_static_fp8(BlockWork& work, CalibrationPass& pass);
void fold_awq_scales(BlockWork& work, const ExportOptions& options, CalibrationPass& pass);
void solve_trained(BlockWork& block, const TrainedGrids& grids);  // as the run rounded
void move_into_cells(BlockWork& block, const StartCodes& start);

}  // namespace qlora::exporter
