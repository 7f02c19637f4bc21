#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "exporter/activation_file.h"
#include "exporter/calibration_set.h"
#include "model/block_loader.h"
#include "quant/linear_statistics.h"

namespace qlora::exporter {

/// Where the linears of a block read: q, k, v — o — gate, up — down.
enum class Site { kAttentionIn, kAttentionOut, kMlpIn, kMlpOut };
inline constexpr Site kSites[] = {Site::kAttentionIn, Site::kAttentionOut, Site::kMlpIn,
                                  Site::kMlpOut};

/// The calibration samples on their way through the blocks, one block and one batch at a time.
///   Files     hidden-0, hidden-1: inputs of even and odd blocks, so that an interrupted block
///   finds
///             its input as it was; inner: what attention or MLP hand on
///   Memory    one batch of activations and one Gram matrix
class CalibrationPass {
 public:
  /// Block 0 reads the embedding; a later first_block reads what an earlier pass left in directory.
  CalibrationPass(const model::BlockLoader& loader, const CalibrationSet& set,
                  const std::filesystem::path& directory, int64_t first_block);

  /// Statistics of what the linears at `site` read. The sites of a block are asked for in order:
  /// each runs the part of the block between the site before and this one, with the weights that
  /// the block has by then. No part runs twice.
  quant::LinearStatistics advance(const model::DecoderBlock& block, Site site);
  /// After kMlpOut: runs the last part. The result is the next block's input.
  void finish_block(const model::DecoderBlock& block);
  /// The whole block at once, without statistics, from the beginning.
  void run_block(const model::DecoderBlock& block);

  /// True where `directory` holds the input of a block, whole.
  static bool has_input(const std::filesystem::path& directory, int64_t block,
                        const CalibrationSet& set, int64_t width);

  /// The next block is the current one. Its input is on the disk when this returns.
  void next_block();
  int64_t block_index() const { return block_; }

 private:
  struct Batch {
    TokenBatch tokens;  // rounded up to whole products
    int64_t begin = 0;  // row in the files
    int64_t valid = 0;  // tokens that are samples'
    int64_t rows() const { return static_cast<int64_t>(tokens.tokens.size()); }
  };
  static std::vector<Batch> make_batches(const CalibrationSet& set);
  model::PassLayout layout(const Batch& batch) const;
  ActivationFile& input() { return block_ % 2 == 0 ? even_ : odd_; }
  ActivationFile& output() { return block_ % 2 == 0 ? odd_ : even_; }
  /// What the linears at `site` read for one batch; hands on what later sites need.
  torch::Tensor site_input(const model::DecoderBlock& block, Site site, const Batch& batch);

  const model::BlockLoader& loader_;
  model::RopeTables rope_;
  std::vector<Batch> batches_;
  int64_t rows_;
  int64_t block_;
  ActivationFile even_, odd_, mixed_, gated_;
};

/// Where a linear reads.
Site site_of(io::LinearSlot slot);

/// "model.layers.3.mlp.gate_proj, up_proj": for messages.
std::string site_name(const io::HfConfig& config, int64_t block, Site site);

}  // namespace qlora::exporter
